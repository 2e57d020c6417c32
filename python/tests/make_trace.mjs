// Records a run of the real core against made-up results, for test_trace.py.
// Standard input: {"path", "plans"?, "compression"?, "scenario"?: "everything" | "decode", "ends"?, "seqs"?, "tokens"?}.
// "everything" has what a trace can hold: chunked prompts, prompt log-probs, most likely tokens, log-probs and rows that are NaN,
// an abort, a pause, a weight update, a command that is no message, a step that fails. "decode" is samples and nothing else.

import { readFileSync } from 'node:fs';
import { decodeInstruction, encodeCommand, encodeResult, WasmCore } from '../../dist/core/index.js';
import { RecordingCore, TraceRecorder, TraceWriter } from '../../dist/trace/index.js';

const VOCABULARY = 100;
const {
  path,
  plans = false,
  compression = 'none',
  scenario = 'everything',
  ends = true,
  seqs = 8,
  tokens = 20,
} = JSON.parse(readFileSync(0, 'utf8'));

const config = { maxNumSeqs: seqs, maxModelLen: 256 + tokens, numBlocks: 64 * seqs, vocabSize: VOCABULARY };
const core = await WasmCore.create({
  ...config,
  maxNumBatchedTokens: 32 + seqs,
  eosTokenIds: [VOCABULARY - 1],
});
const writer = await TraceWriter.create(path, { compression });
let nowUs = 0;
const header = {
  kadenzVersion: '0.1.0',
  model: 'models/ünïcode',
  modelFingerprint: 'of a model',
  hostFingerprint: 'of a host',
  createdUnixMs: 1_700_000_000_000,
};
const recorder = new TraceRecorder((payload) => writer.write(payload), core, {
  header,
  clock: () => {
    nowUs += 17;
    return nowUs;
  },
  plans,
});
const recorded = new RecordingCore(core, recorder);

const prompt = (length, seed) => Array.from({ length }, (_, at) => (at * 7 + seed) % (VOCABULARY - 1));
const requests = {
  decode: [{ id: 1, promptTokenIds: prompt(10, 1), n: seqs, maxTokens: tokens, ignoreEos: true }],
  everything: [
    {
      id: 1,
      promptTokenIds: prompt(100, 1),
      n: 3,
      maxTokens: tokens,
      temperature: 0.75,
      seed: 2n ** 63n + 1n,
    },
    { id: 2, promptTokenIds: prompt(20, 2), maxTokens: 200, logprobs: 3, topP: 0.9, topK: 40, minP: 0.05 },
    { id: 3, promptTokenIds: prompt(30, 3), maxTokens: 9, promptLogprobs: 2, logprobs: 0, priority: -2 },
    {
      id: 4,
      promptTokenIds: prompt(5, 4),
      maxTokens: 12,
      minTokens: 2,
      repetitionPenalty: 1.25,
      presencePenalty: -0.5,
      frequencyPenalty: 0.25,
      stopTokenIds: [97, 98],
      logitBias: { 3: -1.5, 5: 2 },
      logprobsMode: 'processed',
      ignoreEos: true,
      cacheSalt: 77,
    },
    { id: 5, promptTokenIds: [], n: 2 },
  ],
}[scenario];

let numCommands = 0;
function apply(command) {
  numCommands += 1;
  recorded.apply(encodeCommand(numCommands, command));
}

/** What happens before the commit of the step behind this one. */
const later = {
  4: [() => apply({ type: 'abortRequests', requestIds: [2, 99] })],
  5: [() => recorded.apply(Uint8Array.from([9, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]))],
  7: [
    () => apply({ type: 'pauseGeneration', mode: 'keep' }),
    () => apply({ type: 'beginWeightUpdate' }),
    () => apply({ type: 'finishWeightUpdate', version: 7 }),
    () => apply({ type: 'resumeGeneration' }),
    () => apply({ type: 'loadAdapter', adapter: 1, name: 'tiny', path: '/adapters/tiny' }),
  ],
  13: [
    () =>
      apply({
        type: 'addRequests',
        requests: [{ id: 6, promptTokenIds: prompt(40, 6), n: 2, maxTokens: 5 }],
      }),
  ],
  15: [
    () => apply({ type: 'resetPrefixCache', force: true }),
    () => apply({ type: 'unloadAdapter', adapter: 1 }),
  ],
  17: [
    () => apply({ type: 'releaseMemory', tags: ['weights'], abortRunning: false }),
    () => apply({ type: 'resumeMemory', tags: ['weights'] }),
  ],
  20: [() => apply({ type: 'setParallelGroups', tensorParallelSize: 2 }), () => apply({ type: 'shutdown' })],
};

/** Plain, but for every third step: that one has ranks and two likely tokens beside each other sample. */
function resultOf({ step, samples = [], scores = [] }) {
  if (scenario === 'everything' && step === 12)
    return { step, code: 'step_failed', message: 'the device häs failed' };
  const isWhole = scenario === 'everything' && step % 3 === 0;
  const topEnds = samples.map((_, row) => (isWhole ? 2 * Math.ceil((row + 1) / 2) : 0));
  const tops = Array.from({ length: topEnds.at(-1) ?? 0 }, (_, at) => at);
  const scoreTopEnds = scores.map((_, row) => 2 * (row + 1));
  const failedRow = scenario === 'everything' && step === 15;
  return {
    step,
    tokenIds: samples.map((_, row) => (failedRow && row === 0 ? -1 : (step * 31 + row * 7) % VOCABULARY)),
    rowCodes: failedRow ? samples.map((_, row) => (row === 0 ? 'nan_logits' : 'none')) : [],
    logprobs: samples.map((_, row) => (step % 4 === 0 ? Number.NaN : -(step + row / 16))),
    ranks: samples.map((_, row) => (isWhole ? row + 1 : 0)),
    topEnds,
    topTokenIds: tops.map((at) => (step + at) % VOCABULARY),
    topLogprobs: tops.map((at) => -at / 8),
    scoreLogprobs: scores.map((_, row) => -row / 4),
    scoreRanks: scores.map((_, row) => row + 2),
    scoreTopEnds,
    scoreTopTokenIds: scores.flatMap((_, row) => [row, row + 1]),
    scoreTopLogprobs: scores.flatMap((_, row) => [-row / 2, -row]),
  };
}

apply({ type: 'addRequests', requests });
const inFlight = [];
for (let committed = 0; ; committed += 1) {
  if (scenario === 'everything') for (const act of later[committed] ?? []) act();
  for (let bytes = recorded.schedule(); bytes !== null; bytes = recorded.schedule()) {
    const instruction = decodeInstruction(bytes);
    inFlight.push(resultOf(instruction));
  }
  const result = inFlight.shift();
  if (result === undefined) break;
  recorded.commit(encodeResult(result));
}
if (ends) recorder.end(core.digest());
await writer.close();
