// Turns a caller's request into numbers that fit the wire. What the wire can't hold (a string, a fraction, a misspelt field) is
// refused here, by name; whether a number makes sense for this model and configuration is the core's to say.

import { errorFromWire, KadenzError, type KadenzErrorCode } from '../errors.js';
import { deriveSeed } from './seed.js';
import type { GenerateRequest, RequestId } from './types.js';

/** A request as it goes to the core. `ordinal` counts the engine's requests from 0. */
export interface PreparedRequest {
  readonly ordinal: number;
  readonly id: RequestId;
  readonly detokenize: boolean;
  readonly promptTokenIds: Int32Array;
  readonly n: number;
  readonly priority: number;
  readonly adapter: number;
  readonly cacheSalt: bigint;
  readonly seed: bigint;
  readonly temperature: number;
  readonly topP: number;
  readonly minP: number;
  readonly repetitionPenalty: number;
  readonly presencePenalty: number;
  readonly frequencyPenalty: number;
  readonly topK: number;
  readonly maxTokens: number;
  readonly minTokens: number;
  readonly logprobs: number;
  readonly promptLogprobs: number;
  readonly logprobsMode: 'raw' | 'processed';
  readonly ignoreEos: boolean;
  readonly stopTokenIds: Int32Array;
  readonly logitBias: ReadonlyMap<number, number>;
}

export interface PrepareContext {
  ordinal: number;
  engineSeed: bigint;
  maxModelLen: number;
  maxN: number;
  /** The prompt as token ids, where it came as text. */
  encodedPrompt?: Int32Array;
}

const UINT32_MAX = 2 ** 32 - 1;
const INT32_MAX = 2 ** 31 - 1;
const UINT64_MAX = 2n ** 64n - 1n;
/** Entries of a stop or bias list that travel at all; the core's own limits are far lower. */
const LIST_ENTRIES_MAX = 16_384;

const REQUEST_FIELDS: ReadonlySet<string> = new Set([
  ...['id', 'promptTokenIds', 'prompt', 'messages', 'priority', 'cacheSalt', 'adapter', 'detokenize'],
  ...['n', 'temperature', 'topP', 'topK', 'minP', 'seed', 'maxTokens', 'minTokens', 'repetitionPenalty'],
  ...['presencePenalty', 'frequencyPenalty', 'logitBias', 'stopTokenIds', 'ignoreEos', 'logprobs'],
  ...['promptLogprobs', 'logprobsMode'],
]);

/** Checks the form of a request: its field names, and that it has one prompt. Throws a KadenzError. */
export function checkRequestForm(request: GenerateRequest): void {
  if (typeof request !== 'object' || request === null) {
    throw new KadenzError('invalid_argument', `A request must be an object, not ${show(request)}.`);
  }
  for (const name of Object.keys(request)) {
    if (!REQUEST_FIELDS.has(name)) {
      throw new KadenzError('unknown_option', `A request has no field named '${name}'.`, { value: name });
    }
  }
  const prompts = (['promptTokenIds', 'prompt', 'messages'] as const).filter(
    (name) => request[name] !== undefined,
  );
  if (prompts.length !== 1) {
    const found = prompts.length === 0 ? 'none' : prompts.join(' and ');
    throw new KadenzError(
      'invalid_argument',
      `A request needs exactly one of promptTokenIds, prompt and messages; this one has ${found}.`,
    );
  }
  const { id } = request;
  if (id !== undefined && typeof id !== 'string' && typeof id !== 'number') {
    throw new KadenzError(
      'invalid_argument',
      `A request's id must be a string or a number, not ${show(id)}.`,
    );
  }
}

/** The request with every default filled in. Throws a KadenzError that names the field and its value. */
export function prepareRequest(request: GenerateRequest, context: PrepareContext): PreparedRequest {
  const promptTokenIds = context.encodedPrompt ?? promptTokens(request.promptTokenIds!);
  const maxTokens = whole(request.maxTokens ?? 16, 'maxTokens', 'invalid_max_tokens', 0, UINT32_MAX);
  const limit = context.maxModelLen - Math.min(maxTokens, 1);
  if (promptTokenIds.length > limit)
    throw errorFromWire('prompt_too_long', { value: promptTokenIds.length, limit });
  const n = whole(request.n ?? 1, 'n', 'invalid_n', 0, UINT32_MAX);
  if (n > context.maxN) throw errorFromWire('invalid_n', { value: n, limit: context.maxN });
  return {
    ordinal: context.ordinal,
    id: request.id ?? context.ordinal,
    detokenize: flag(request.detokenize ?? request.promptTokenIds === undefined, 'detokenize'),
    promptTokenIds,
    n,
    priority: whole(request.priority ?? 0, 'priority', 'invalid_argument', -INT32_MAX - 1, INT32_MAX),
    adapter: whole(request.adapter ?? 0, 'adapter', 'unknown_adapter', 0, UINT32_MAX),
    cacheSalt: uint64(request.cacheSalt ?? 0, 'cacheSalt'),
    seed:
      request.seed === undefined
        ? deriveSeed(context.engineSeed, context.ordinal)
        : uint64(request.seed, 'seed'),
    temperature: real(request.temperature ?? 1, 'temperature', 'invalid_temperature'),
    topP: real(request.topP ?? 1, 'topP', 'invalid_top_p'),
    minP: real(request.minP ?? 0, 'minP', 'invalid_min_p'),
    repetitionPenalty: real(
      request.repetitionPenalty ?? 1,
      'repetitionPenalty',
      'invalid_repetition_penalty',
    ),
    presencePenalty: real(request.presencePenalty ?? 0, 'presencePenalty', 'invalid_presence_penalty'),
    frequencyPenalty: real(request.frequencyPenalty ?? 0, 'frequencyPenalty', 'invalid_frequency_penalty'),
    topK: Math.max(0, whole(request.topK ?? 0, 'topK', 'invalid_top_k', -1, UINT32_MAX)),
    maxTokens,
    minTokens: whole(request.minTokens ?? 0, 'minTokens', 'invalid_min_tokens', 0, UINT32_MAX),
    logprobs: whole(orNone(request.logprobs, 0), 'logprobs', 'invalid_logprobs', -1, INT32_MAX),
    promptLogprobs: whole(
      orNone(request.promptLogprobs, -1),
      'promptLogprobs',
      'invalid_prompt_logprobs',
      -1,
      INT32_MAX,
    ),
    logprobsMode: mode(request.logprobsMode ?? 'raw'),
    ignoreEos: flag(request.ignoreEos ?? false, 'ignoreEos'),
    stopTokenIds: stopTokens(request.stopTokenIds ?? []),
    logitBias: logitBias(request.logitBias),
  };
}

/** The unsigned 64-bit number that a seed or a salt is. */
export function uint64(value: unknown, name: string): bigint {
  const fits = typeof value === 'bigint' || (typeof value === 'number' && Number.isSafeInteger(value));
  if (fits) {
    const number = BigInt(value);
    if (number >= 0n && number <= UINT64_MAX) return number;
  }
  throw new KadenzError(
    'invalid_argument',
    `${name} is ${show(value)}; it must be a whole number from 0 to ${UINT64_MAX} (a bigint above ${Number.MAX_SAFE_INTEGER}).`,
    { value: typeof value === 'bigint' ? value : show(value), limit: UINT64_MAX },
  );
}

function promptTokens(source: ArrayLike<number>): Int32Array {
  return tokenIds(source, 'promptTokenIds', 'prompt_token_out_of_range');
}

function stopTokens(source: unknown): Int32Array {
  const ids = tokenIds(source, 'stopTokenIds', 'invalid_stop_token_ids');
  if (ids.length <= LIST_ENTRIES_MAX) return ids;
  throw errorFromWire('invalid_stop_token_ids', { value: ids.length, limit: LIST_ENTRIES_MAX });
}

function tokenIds(source: unknown, name: string, code: KadenzErrorCode): Int32Array {
  if (source instanceof Int32Array) return source.slice();
  const isList = Array.isArray(source) || (ArrayBuffer.isView(source) && !(source instanceof DataView));
  if (!isList)
    throw new KadenzError('invalid_argument', `${name} must be a list of token ids, not ${show(source)}.`);
  const list = source as unknown as ArrayLike<unknown>;
  const ids = new Int32Array(list.length);
  for (let index = 0; index < list.length; index += 1) {
    const id = list[index];
    if (typeof id !== 'number' || id !== (id | 0)) {
      const sentence = `${name}[${index}] is ${show(id)}; a token id is a whole number from 0 to the vocabulary's last.`;
      throw new KadenzError(code, sentence, { value: show(id) });
    }
    ids[index] = id;
  }
  return ids;
}

function logitBias(source: GenerateRequest['logitBias']): ReadonlyMap<number, number> {
  if (source !== undefined && (typeof source !== 'object' || source === null || Array.isArray(source))) {
    throw new KadenzError(
      'invalid_logit_bias',
      `logitBias must map token ids to numbers; it is ${show(source)}.`,
    );
  }
  const entries: Iterable<[unknown, unknown]> =
    source instanceof Map ? source : Object.entries(source ?? {}).map(([id, value]) => [Number(id), value]);
  const biases = new Map<number, number>();
  for (const [id, value] of entries) {
    if (typeof value !== 'number') {
      const sentence = `logitBias for token ${show(id)} is ${show(value)}; it must be a finite number.`;
      throw new KadenzError('invalid_logit_bias', sentence, { value: show(value) });
    }
    biases.set(tokenIds([id], 'logitBias', 'invalid_logit_bias')[0]!, value);
  }
  if (biases.size > LIST_ENTRIES_MAX)
    throw errorFromWire('invalid_logit_bias', { value: biases.size, limit: LIST_ENTRIES_MAX });
  return biases;
}

function whole(value: unknown, name: string, code: KadenzErrorCode, least: number, most: number): number {
  if (typeof value === 'number' && Number.isInteger(value) && value >= least && value <= most) return value;
  const sentence = `${name} is ${show(value)}; it must be a whole number from ${least} to ${most}.`;
  throw new KadenzError(code, sentence, { value: show(value), limit: most });
}

function real(value: unknown, name: string, code: KadenzErrorCode): number {
  if (typeof value === 'number') return value;
  throw new KadenzError(code, `${name} is ${show(value)}; it must be a number.`, { value: show(value) });
}

function flag(value: unknown, name: string): boolean {
  if (typeof value === 'boolean') return value;
  throw new KadenzError('invalid_argument', `${name} is ${show(value)}; it must be true or false.`, {
    value: show(value),
  });
}

function mode(value: unknown): 'raw' | 'processed' {
  if (value === 'raw' || value === 'processed') return value;
  throw new KadenzError(
    'invalid_logprobs_mode',
    `logprobsMode is ${show(value)}; it must be 'raw' or 'processed'.`,
  );
}

/** `null` means none, which is -1 on the wire; only a field left out gets the default. */
function orNone(value: number | null | undefined, whenLeftOut: number): unknown {
  return value === null ? -1 : (value ?? whenLeftOut);
}

/** A value for a sentence: short, and safe to print whatever it is. */
function show(value: unknown): string {
  if (typeof value === 'string') return JSON.stringify(value.slice(0, 40));
  if (typeof value === 'number' || typeof value === 'bigint' || typeof value === 'boolean')
    return String(value);
  if (value === undefined || value === null) return String(value);
  return Array.isArray(value) ? 'a list' : typeof value === 'object' ? 'an object' : `a ${typeof value}`;
}
