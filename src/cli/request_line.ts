// A line of input as a request, and a result as a line of output: snake_case outside, camelCase inside.

import type { GenerateRequest, GenerateResult, RequestId, Sample, TopLogprobs } from '../index.js';
import { KadenzError } from '../index.js';
import { lineError } from './input_lines.js';

/** Fields of a line's `sampling`, and what the engine calls them. */
const SAMPLING_FIELDS: Readonly<Record<string, keyof GenerateRequest>> = {
  n: 'n',
  temperature: 'temperature',
  top_p: 'topP',
  top_k: 'topK',
  min_p: 'minP',
  seed: 'seed',
  max_tokens: 'maxTokens',
  min_tokens: 'minTokens',
  repetition_penalty: 'repetitionPenalty',
  presence_penalty: 'presencePenalty',
  frequency_penalty: 'frequencyPenalty',
  logit_bias: 'logitBias',
  stop_token_ids: 'stopTokenIds',
  ignore_eos: 'ignoreEos',
  logprobs: 'logprobs',
  prompt_logprobs: 'promptLogprobs',
  logprobs_mode: 'logprobsMode',
  priority: 'priority',
  cache_salt: 'cacheSalt',
  adapter: 'adapter',
};

/** Numbers that may need 64 bits, which JSON numbers can't hold: a string of digits is taken too. */
const WIDE_FIELDS: ReadonlySet<string> = new Set(['seed', 'cache_salt']);

/** What flags say, for lines that say nothing else. */
export type RequestDefaults = Omit<GenerateRequest, 'promptTokenIds' | 'prompt' | 'messages' | 'id'>;

/** Throws a KadenzError. Fields beside id, the prompt and sampling belong to the user (an answer, say) and are passed over. */
export function requestOfLine(
  content: Record<string, unknown>,
  { line, defaults }: { line: number; defaults: RequestDefaults },
): GenerateRequest {
  const request: Record<string, unknown> = { ...defaults, id: idOfLine(content, line) };
  const { prompt, prompt_token_ids: promptTokenIds, messages, sampling = {} } = content;
  const prompts = Object.entries({ prompt, promptTokenIds, messages }).filter(
    ([, value]) => value !== undefined,
  );
  if (prompts.length !== 1)
    throw lineError(line, 'it needs exactly one of "prompt", "prompt_token_ids" and "messages"');
  const [[name, value]] = prompts as [[string, unknown]];
  const isRight = name === 'prompt' ? typeof value === 'string' : Array.isArray(value);
  if (!isRight)
    throw lineError(line, `"${name === 'promptTokenIds' ? 'prompt_token_ids' : name}" is of the wrong type`);
  request[name] = value;
  if (typeof sampling !== 'object' || sampling === null || Array.isArray(sampling)) {
    throw lineError(line, '"sampling" must be an object');
  }
  for (const [field, given] of Object.entries(sampling)) {
    if (!Object.hasOwn(SAMPLING_FIELDS, field))
      throw lineError(line, `"sampling" has no field ${JSON.stringify(field)}`);
    request[SAMPLING_FIELDS[field]!] = WIDE_FIELDS.has(field) ? wide(given) : given;
  }
  return request as GenerateRequest;
}

/** The line's id; its number where it has none. */
export function idOfLine(content: Record<string, unknown>, line: number): RequestId {
  const { id = line } = content;
  if (typeof id === 'string' || typeof id === 'number') return id;
  throw lineError(line, '"id" must be a string or a number');
}

export function resultLine(result: GenerateResult): Record<string, unknown> {
  return {
    id: result.id,
    prompt_token_ids: Array.from(result.promptTokenIds),
    samples: result.samples.map(sampleObject),
    cached_tokens: result.cachedTokens,
    ...(result.promptLogprobs === undefined ? {} : { prompt_logprobs: floats(result.promptLogprobs) }),
    ...(result.promptTopLogprobs === undefined
      ? {}
      : { prompt_top_logprobs: topObjects(result.promptTopLogprobs) }),
  };
}

/** What stands in the place of a result that there is none of. */
export function errorLine(
  error: KadenzError,
  { line, content }: { line: number; content: unknown },
): Record<string, unknown> {
  const id = content instanceof KadenzError ? undefined : (content as { id?: unknown }).id;
  const echo = typeof id === 'string' || typeof id === 'number' ? { id } : {};
  return { ...echo, line, error: errorObject(error) };
}

/** Numbers for JSON. A float32 printed as a double reads back as the same float32; NaN and infinities have no form and become null. */
export function floats(values: Float32Array): (number | null)[] {
  return Array.from(values, (value) => (Number.isFinite(value) ? value : null));
}

function sampleObject(sample: Sample): Record<string, unknown> {
  return {
    index: sample.index,
    token_ids: Array.from(sample.tokenIds),
    text: sample.text ?? null,
    logprobs: sample.logprobs === null ? null : floats(sample.logprobs),
    finish_reason: sample.finishReason,
    stop_reason: sample.stopReason,
    weight_versions: Array.from(sample.weightVersions),
    ...(sample.topLogprobs === undefined ? {} : { top_logprobs: topObjects(sample.topLogprobs) }),
    ...(sample.error === undefined ? {} : { error: errorObject(sample.error) }),
  };
}

/** One object a position; null where nothing is known (the first prompt token). */
function topObjects({ width, tokenIds, logprobs, ranks }: TopLogprobs): (Record<string, unknown> | null)[] {
  return Array.from(ranks, (rank, position) => {
    const begin = position * width;
    const ids = Array.from(tokenIds.subarray(begin, begin + width)).filter((id) => id >= 0);
    if (ids.length === 0) return null;
    return { token_ids: ids, logprobs: floats(logprobs.subarray(begin, begin + ids.length)), rank };
  });
}

function errorObject({ code, message }: KadenzError): { code: string; message: string } {
  return { code, message };
}

function wide(value: unknown): unknown {
  return typeof value === 'string' && /^\d{1,20}$/.test(value) ? BigInt(value) : value;
}
