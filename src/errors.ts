// Every mistake that a caller can make, or that the world makes for them, is a KadenzError: one class, a stable
// snake_case code to branch on, and a sentence for people that names the value, the limit and what to do.
// docs/errors.md explains each code; a test holds the two lists together.
//
// A broken invariant of Kadenz itself is not a KadenzError: it throws a plain Error, loudly.
// This module is a leaf: everything may import it, it imports nothing.

export interface KadenzErrorDetails {
  /** Id of the request that the error belongs to. */
  request?: string | number | bigint;
  /** What was given. */
  value?: unknown;
  /** What is allowed. */
  limit?: unknown;
  /** Whatever else helps: `path`, `line`, `tensor`, ... */
  [name: string]: unknown;
}

export class KadenzError extends Error {
  override readonly name = 'KadenzError';
  readonly code: KadenzErrorCode;
  readonly details: KadenzErrorDetails;

  /**
   * @param code stable, snake_case, listed in docs/errors.md
   * @param sentence names the value and the limit, and says what to do
   */
  constructor(
    code: KadenzErrorCode,
    sentence: string,
    { cause, ...details }: KadenzErrorDetails & { cause?: unknown } = {},
  ) {
    super(sentence, cause === undefined ? undefined : { cause });
    this.code = code;
    this.details = details;
  }
}

type Sentence = (value: string, limit: string) => string;

/** Codes that cross the wire: number and name as in schemas/types.fbs, and the sentence. */
const WIRE_ERRORS = {
  prompt_empty: [1, () => 'The prompt is empty; give at least one token id.'],
  prompt_token_out_of_range: [
    2,
    (value, limit) => `The prompt holds token id ${value}; the model's vocabulary has the ids 0 to ${limit}.`,
  ],
  prompt_too_long: [
    3,
    (value, limit) =>
      `The prompt has ${value} tokens; at most ${limit} fit into maxModelLen beside the output. ` +
      'Shorten it, or raise maxModelLen.',
  ],
  prompt_exceeds_kv_cache: [
    4,
    (value, limit) =>
      `The prompt has ${value} tokens; the whole KV cache holds at most ${limit} beside the output. ` +
      'Shorten it, or give the engine more KV blocks.',
  ],
  invalid_n: [5, (value, limit) => `n is ${value}; it must be from 1 to ${limit}.`],
  invalid_temperature: [
    6,
    (value) => `temperature is ${value}; it must be a finite number, 0 (greedy) or greater.`,
  ],
  invalid_top_p: [
    7,
    (value) => `topP is ${value}; it must be greater than 0 and at most 1 (1 turns it off).`,
  ],
  invalid_top_k: [8, (value) => `topK is ${value}; it must be from 0 (off) to 2147483647.`],
  invalid_min_p: [9, (value) => `minP is ${value}; it must be from 0 (off) to 1.`],
  invalid_repetition_penalty: [
    10,
    (value) => `repetitionPenalty is ${value}; it must be a finite number greater than 0 (1 turns it off).`,
  ],
  invalid_presence_penalty: [
    11,
    (value) => `presencePenalty is ${value}; it must be from -2 to 2 (0 turns it off).`,
  ],
  invalid_frequency_penalty: [
    12,
    (value) => `frequencyPenalty is ${value}; it must be from -2 to 2 (0 turns it off).`,
  ],
  invalid_max_tokens: [
    13,
    (value) =>
      `maxTokens is ${value}; it must be 1 or more. 0 is for scoring a prompt, together with promptLogprobs.`,
  ],
  invalid_min_tokens: [14, (value, limit) => `minTokens is ${value}, more than maxTokens allows (${limit}).`],
  invalid_logprobs: [15, (value, limit) => `logprobs is ${value}; it must be from -1 (none) to ${limit}.`],
  invalid_prompt_logprobs: [
    16,
    (value, limit) => `promptLogprobs is ${value}; it must be from -1 (none) to ${limit}.`,
  ],
  invalid_stop_token_ids: [
    17,
    (value, limit) =>
      `stopTokenIds can't be used: ${value} is beyond the limit of ${limit}. ` +
      "Give at most 64 ids of the model's vocabulary.",
  ],
  invalid_logit_bias: [
    18,
    (value, limit) =>
      `logitBias can't be used: ${value} is beyond the limit of ${limit}, or its bias is no number. ` +
      "Give finite numbers (or -Infinity) for at most 1024 ids of the model's vocabulary.",
  ],
  request_id_in_use: [
    19,
    (value) => `A request with the id ${value} has not ended yet; choose an id that is not in use.`,
  ],
  queue_full: [
    20,
    (value, limit) =>
      `The queue is full: ${value} where ${limit} is the most (requests, or bytes of token ids). ` +
      'Wait until some requests have ended, or raise maxNumRequests or tokenHeapBytes.',
  ],
  unknown_adapter: [21, (value) => `Adapter ${value} is not loaded; load it first, or use 0 for none.`],
  invalid_logprobs_mode: [22, (value) => `logprobsMode is ${value}; it must be 'raw' or 'processed'.`],

  not_configured: [40, () => 'The core has no configuration yet; the first command must be configure.'],
  already_configured: [41, () => 'The core is configured already; a configuration lasts for its lifetime.'],
  invalid_config: [42, () => 'The core refuses this configuration.'],
  malformed_message: [
    43,
    () => 'The bytes are not a valid message of this schema; send what the encoder of this version made.',
  ],
  requests_running: [
    44,
    (value) =>
      `${value} sequences or requests have not ended; pause generation or wait for them, or force it where that is offered.`,
  ],
  weights_unavailable: [
    45,
    () =>
      'The weights are not usable: an update is under way or has failed. Finish an update that succeeds first.',
  ],
  memory_released: [46, () => 'The memory has been released; resume it first.'],
  memory_not_released: [47, () => 'The memory has not been released, so there is nothing to resume.'],
  weight_update_in_progress: [48, () => 'A weight update is in progress; finish it first.'],
  no_weight_update: [49, () => 'No weight update is in progress; begin one first.'],
  weight_version_not_monotonic: [
    50,
    (value, limit) => `Weight version ${value} is not greater than ${limit}, the present one.`,
  ],
  not_paused: [51, () => 'Generation is not paused; pause it first.'],
  adapter_in_use: [
    52,
    (value) => `Adapter ${value} is used by requests that have not ended; wait or abort them.`,
  ],
  adapter_exists: [
    53,
    (value) => `Adapter ${value} is loaded already; unload it first, or use another number.`,
  ],
  too_many_adapters: [54, (_, limit) => `All ${limit} places for adapters are taken; unload one first.`],
  shut_down: [55, () => 'The engine has been shut down; nothing more can be asked of it.'],
  command_in_progress: [
    56,
    () => 'A command of this kind has not been acknowledged yet; wait for its acknowledgement.',
  ],
  invalid_argument: [
    57,
    (value, limit) => `An argument of the command is ${value}, and the limit is ${limit}.`,
  ],

  step_failed: [70, () => 'The host could not execute the step; its log says why.'],
  nan_logits: [
    71,
    () => "The model's logits are not numbers (NaN) for this sample; the weights or an adapter are at fault.",
  ],
  token_out_of_range: [
    72,
    () => "The host sampled a token outside of the model's vocabulary. This is a fault of the host.",
  ],
  out_of_token_memory: [
    73,
    (value, limit) =>
      Number(limit) > 0
        ? `The request needs ${value} bytes of memory for token ids, and there are ${limit} in all; raise tokenHeapBytes.`
        : 'The memory for token ids is used up by waiting and running requests; send fewer at once, or raise tokenHeapBytes.',
  ],
  unsupported: [74, () => 'The host does not support what was asked for.'],
  out_of_memory: [
    75,
    () =>
      'The device has too little free memory for what was asked for; the log says how much is missing. End what else uses it, and ask again.',
  ],

  result_unexpected: [
    80,
    () =>
      'A result came for a step that is not the oldest one in flight; commit results in the order of their instructions.',
  ],
  result_malformed: [81, () => 'The result does not fit its instruction. This is a fault of the host.'],
  too_many_steps_in_flight: [
    82,
    (_, limit) => `${limit} steps are in flight already; commit the oldest result first.`,
  ],
} as const satisfies Record<string, readonly [number, Sentence]>;

/** Codes that never cross the wire; their sentences are written where they arise. */
const OUTER_CODES = [
  'model_not_found',
  'unsupported_architecture',
  'unsupported_config',
  'unsupported_model',
  'invalid_model_config',
  'unsupported_dtype',
  'missing_tensor',
  'unexpected_tensor',
  'duplicate_tensor',
  'invalid_tensor',
  'wrong_shape',
  'invalid_safetensors',
  'file_truncated',
  'file_unreadable',
  'size_overflow',
  'native_addon_missing',
  'unsupported_device',
  'cuda_plugin_missing',
  'cuda_unavailable',
  'cublaslt_missing',
  'matmul_not_certified',
  'device_error',
  'unsupported_cpu_isa',
  'invalid_num_threads',
  'invalid_cache_shape',
  'host_closed',
  'host_failed',
  'invalid_batch',
  'nothing_submitted',
  'worker_died',
  'engine_closed',
  'no_progress',
  'unknown_option',
  'invalid_input_line',
  'input_not_found',
  'output_failed',
  'tokenizer_missing',
  'invalid_tokenizer',
  'invalid_chat_template',
  'invalid_snapshot',
  'message_too_large',
  'record_failed',
  'trace_not_found',
  'trace_corrupt',
  'trace_unsupported',
  'trace_mismatch',
  'store_unavailable',
  'store_timeout',
  'store_protocol',
] as const;

export type WireErrorName = keyof typeof WIRE_ERRORS;
export type KadenzErrorCode = WireErrorName | (typeof OUTER_CODES)[number];

/** All codes with their numbers on the wire (undefined for those that stay outside), in the order of docs/errors.md. */
export const ERROR_CODES: ReadonlyMap<KadenzErrorCode, number | undefined> = new Map<
  KadenzErrorCode,
  number | undefined
>([
  ...Object.entries(WIRE_ERRORS).map(([name, [number]]) => [name as WireErrorName, number] as const),
  ...OUTER_CODES.map((name) => [name, undefined] as const),
]);

const WIRE_NAMES = new Map<number, WireErrorName>(
  Object.entries(WIRE_ERRORS).map(([name, [number]]) => [number, name as WireErrorName]),
);

/** Name of a code of the wire; undefined for `none` and for numbers that this version does not know. */
export function wireErrorName(number: number): WireErrorName | undefined {
  return WIRE_NAMES.get(number);
}

/** Codes whose value is a float32, sent as its bits because the core does no arithmetic on floats. */
const FLOAT_CODES: ReadonlySet<WireErrorName> = new Set<WireErrorName>([
  'invalid_temperature',
  'invalid_top_p',
  'invalid_min_p',
  'invalid_repetition_penalty',
  'invalid_presence_penalty',
  'invalid_frequency_penalty',
]);

function float32OfBits(bits: number | bigint): number {
  const view = new DataView(new ArrayBuffer(4));
  view.setUint32(0, Number(BigInt.asUintN(32, BigInt(bits))));
  return Number(view.getFloat32(0).toPrecision(7));
}

/**
 * The error for a code that came over the wire.
 * @param code number or name; a number that this version does not know is a broken invariant
 */
export function errorFromWire(
  code: number | WireErrorName,
  {
    value = 0,
    limit = 0,
    request,
  }: { value?: number | bigint; limit?: number | bigint; request?: number | bigint } = {},
): KadenzError {
  const name = typeof code === 'string' ? code : wireErrorName(code);
  if (name === undefined)
    throw new Error(`the wire carries error code ${code}, which this version does not know`);
  const shown = FLOAT_CODES.has(name) ? float32OfBits(value) : value;
  const sentence: Sentence = WIRE_ERRORS[name][1];
  const prefix = request === undefined ? '' : `Request ${request}: `;
  return new KadenzError(name, prefix + sentence(String(shown), String(limit)), {
    value: shown,
    limit,
    ...(request === undefined ? {} : { request }),
  });
}
