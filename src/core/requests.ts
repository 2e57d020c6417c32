// Requests as plain objects, and their way onto the wire.

import type * as flatbuffers from 'flatbuffers';
import { KadenzError, type KadenzErrorCode } from '../errors.js';
import * as wire from '../generated/index.js';
import {
  boolean,
  float32,
  type Integers,
  int32,
  type Origin,
  putVector,
  tokenIds,
  uint32,
  uint64,
} from './flat.js';

export interface SamplingParamsObject {
  /** Default 0; the noise of a sample depends on it, on the position and on the sample's index alone. */
  seed?: number | bigint;
  /** 0 is greedy. Default 1. */
  temperature?: number;
  /** Default 1, off. */
  topP?: number;
  /** Default 0, off. */
  minP?: number;
  /** Default 1, off. */
  repetitionPenalty?: number;
  /** Default 0, off. */
  presencePenalty?: number;
  /** Default 0, off. */
  frequencyPenalty?: number;
  /** Default 0, off. */
  topK?: number;
  /** Default 16. 0 only to score a prompt. */
  maxTokens?: number;
  /** Default 0. */
  minTokens?: number;
  /** -1, the default: none. 0: of the sampled token. k: also of the k most likely. */
  logprobs?: number;
  /** The same for the prompt's tokens. Default -1. */
  promptLogprobs?: number;
  /** Default 'raw'. */
  logprobsMode?: 'raw' | 'processed';
  /** Default false. */
  ignoreEos?: boolean;
}

export interface RequestObject extends SamplingParamsObject {
  /** Unique among the requests that have not ended. */
  id: number | bigint;
  promptTokenIds: Integers;
  /** Samples. Default 1. */
  n?: number;
  /** Smaller runs first. Default 0. */
  priority?: number;
  /** 0, the default: none. */
  adapter?: number;
  /** Prefix-cache hits only within one salt. Default 0. */
  cacheSalt?: number | bigint;
  stopTokenIds?: Integers;
  /** Added to the logits of these token ids. */
  logitBias?: Readonly<Record<number, number>> | ReadonlyMap<number, number>;
}

/** Throws the KadenzError that encoding this request would throw: for callers that encode many and refuse them one by one. */
export function checkRequest(request: RequestObject): void {
  resolveRequest(request);
}

function resolveRequest(request: RequestObject) {
  const id = uint64(request.id, { code: 'invalid_argument', name: 'id' });
  const origin = (code: KadenzErrorCode, name: string): Origin => ({ code, name, request: request.id });
  return {
    id,
    promptTokenIds: tokenIds(request.promptTokenIds, origin('prompt_token_out_of_range', 'promptTokenIds')),
    n: uint32(request.n ?? 1, origin('invalid_n', 'n')),
    priority: int32(request.priority ?? 0, origin('invalid_argument', 'priority')),
    adapter: uint32(request.adapter ?? 0, origin('unknown_adapter', 'adapter')),
    cacheSalt: uint64(request.cacheSalt ?? 0, origin('invalid_argument', 'cacheSalt')),
    stopTokenIds: tokenIds(request.stopTokenIds ?? [], origin('invalid_stop_token_ids', 'stopTokenIds')),
    ...resolveBias(request.logitBias, origin('invalid_logit_bias', 'logitBias')),
    params: resolveParams(request, origin),
  };
}

function resolveParams(request: RequestObject, origin: (code: KadenzErrorCode, name: string) => Origin) {
  const float = (code: KadenzErrorCode, name: keyof SamplingParamsObject, otherwise: number) =>
    float32((request[name] as number | undefined) ?? otherwise, origin(code, name));
  return {
    seed: uint64(request.seed ?? 0, origin('invalid_argument', 'seed')),
    temperature: float('invalid_temperature', 'temperature', 1),
    topP: float('invalid_top_p', 'topP', 1),
    minP: float('invalid_min_p', 'minP', 0),
    repetitionPenalty: float('invalid_repetition_penalty', 'repetitionPenalty', 1),
    presencePenalty: float('invalid_presence_penalty', 'presencePenalty', 0),
    frequencyPenalty: float('invalid_frequency_penalty', 'frequencyPenalty', 0),
    topK: uint32(request.topK ?? 0, origin('invalid_top_k', 'topK')),
    maxTokens: uint32(request.maxTokens ?? 16, origin('invalid_max_tokens', 'maxTokens')),
    minTokens: uint32(request.minTokens ?? 0, origin('invalid_min_tokens', 'minTokens')),
    logprobs: int32(request.logprobs ?? -1, origin('invalid_logprobs', 'logprobs')),
    promptLogprobs: int32(request.promptLogprobs ?? -1, origin('invalid_prompt_logprobs', 'promptLogprobs')),
    logprobsMode: logprobsMode(request),
    ignoreEos: boolean(request.ignoreEos ?? false, origin('invalid_argument', 'ignoreEos')),
  };
}

function logprobsMode({ id, logprobsMode: mode = 'raw' }: RequestObject): wire.LogprobsMode {
  if (mode === 'raw') return wire.LogprobsMode.raw;
  if (mode === 'processed') return wire.LogprobsMode.processed;
  throw new KadenzError(
    'invalid_logprobs_mode',
    `Request ${id}: logprobsMode is '${mode}'; it must be 'raw' or 'processed'.`,
    {
      request: id,
      value: mode,
    },
  );
}

/** By ascending token id, so that equal biases give equal bytes. */
function resolveBias(bias: RequestObject['logitBias'], origin: Origin) {
  const entries =
    bias instanceof Map ? [...bias] : Object.entries(bias ?? {}).map(([id, value]) => [Number(id), value]);
  const checked = entries.map(([id, value]) => [int32(id, origin), float32(value, origin)] as const);
  checked.sort(([a], [b]) => a - b);
  return {
    biasTokenIds: Int32Array.from(checked, ([id]) => id),
    bias: Float32Array.from(checked, ([, value]) => value),
  };
}

export function putRequests(
  builder: flatbuffers.Builder,
  requests: readonly RequestObject[],
): flatbuffers.Offset {
  const offsets = requests.map((request) => putRequest(builder, request));
  return wire.AddRequests.createAddRequests(builder, wire.AddRequests.createRequestsVector(builder, offsets));
}

function putRequest(builder: flatbuffers.Builder, plain: RequestObject): flatbuffers.Offset {
  const request = resolveRequest(plain);
  const prompt = putVector(builder, request.promptTokenIds);
  const stops = putVector(builder, request.stopTokenIds);
  const biasTokenIds = putVector(builder, request.biasTokenIds);
  const bias = putVector(builder, request.bias);
  wire.Request.startRequest(builder);
  wire.Request.addId(builder, request.id);
  wire.Request.addPromptTokenIds(builder, prompt);
  wire.Request.addN(builder, request.n);
  wire.Request.addPriority(builder, request.priority);
  wire.Request.addAdapter(builder, request.adapter);
  wire.Request.addCacheSalt(builder, request.cacheSalt);
  wire.Request.addParams(builder, putParams(builder, request.params));
  wire.Request.addStopTokenIds(builder, stops);
  wire.Request.addBiasTokenIds(builder, biasTokenIds);
  wire.Request.addBias(builder, bias);
  return wire.Request.endRequest(builder);
}

/** A struct lies inline: it is written while its table is open. */
export function putParams(
  builder: flatbuffers.Builder,
  params: ReturnType<typeof resolveParams>,
): flatbuffers.Offset {
  return wire.SamplingParams.createSamplingParams(
    builder,
    params.seed,
    params.temperature,
    params.topP,
    params.minP,
    params.repetitionPenalty,
    params.presencePenalty,
    params.frequencyPenalty,
    params.topK,
    params.maxTokens,
    params.minTokens,
    params.logprobs,
    params.promptLogprobs,
    params.logprobsMode,
    params.ignoreEos,
    0,
  );
}
