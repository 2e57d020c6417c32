// Says everything that the TypeScript reader finds in traces, for test_trace.py to compare with.
// Standard input: a list of paths; standard output: for each one {header, events, problem} or {code, message}.
// Numbers of 64 bits are strings, and log-probs are the bits of their float32.

import { readFileSync } from 'node:fs';
import { ByteBuffer } from 'flatbuffers';
import { decodeConfigure, decodeResult } from '../../dist/core/index.js';
import * as wire from '../../dist/generated/index.js';
import { TraceReader } from '../../dist/trace/index.js';

const bits = (numbers) => Array.from(new Uint32Array(Float32Array.from(numbers).buffer));
const list = (numbers) => Array.from(numbers ?? []);

function dumpCommand(bytes) {
  const command = wire.Command.getRootAsCommand(new ByteBuffer(bytes.slice()));
  const kind = wire.CommandPayload[command.payloadType()];
  if (kind !== 'AddRequests') return { id: String(command.id()), kind };
  const added = command.payload(new wire.AddRequests());
  return {
    id: String(command.id()),
    kind,
    requests: list({ length: added.requestsLength() }).map((_, at) => dumpRequest(added.requests(at))),
  };
}

function dumpRequest(request) {
  const params = request.params();
  return {
    id: String(request.id()),
    n: request.n(),
    priority: request.priority(),
    adapter: request.adapter(),
    cache_salt: String(request.cacheSalt()),
    prompt_token_ids: list(request.promptTokenIdsArray()),
    stop_token_ids: list(request.stopTokenIdsArray()),
    bias_token_ids: list(request.biasTokenIdsArray()),
    bias: bits(list(request.biasArray())),
    seed: String(params.seed()),
    temperature: bits([params.temperature()])[0],
    top_p: bits([params.topP()])[0],
    min_p: bits([params.minP()])[0],
    repetition_penalty: bits([params.repetitionPenalty()])[0],
    presence_penalty: bits([params.presencePenalty()])[0],
    frequency_penalty: bits([params.frequencyPenalty()])[0],
    top_k: params.topK(),
    max_tokens: params.maxTokens(),
    min_tokens: params.minTokens(),
    logprobs: params.logprobs(),
    prompt_logprobs: params.promptLogprobs(),
    logprobs_mode: wire.LogprobsMode[params.logprobsMode()],
    ignore_eos: params.ignoreEos(),
  };
}

function dumpResult(bytes) {
  const result = decodeResult(bytes);
  for (const name of ['logprobs', 'topLogprobs', 'scoreLogprobs', 'scoreTopLogprobs'])
    result[name] = bits(result[name]);
  result.code = wire.ErrorCode[result.code];
  result.rowCodes = result.rowCodes.map((code) => wire.ErrorCode[code]);
  return result;
}

function dumpEvent(event) {
  if (event.kind === 'end') return { ...event, digest: String(event.digest) };
  if (event.kind === 'command') {
    const command =
      event.command.byteLength < 16 ? { id: '0', kind: 'malformed' } : dumpCommand(event.command);
    return { ...event, command };
  }
  const plan = event.plan === null ? null : Buffer.from(event.plan).toString('base64');
  return { ...event, digest: String(event.digest), result: dumpResult(event.result), plan };
}

async function dump(path) {
  try {
    const reader = await TraceReader.open(path);
    const { header } = reader;
    const events = Array.from(reader.events(), dumpEvent);
    reader.close();
    return {
      header: { ...header, configure: decodeConfigure(header.configure) },
      events,
      problem: reader.problem,
    };
  } catch (error) {
    return { code: error.code ?? String(error), message: error.message };
  }
}

const dumps = [];
for (const path of JSON.parse(readFileSync(0, 'utf8'))) dumps.push(await dump(path));
process.stdout.write(JSON.stringify(dumps));
