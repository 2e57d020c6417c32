// What recording a run costs: microseconds a step beside the core at 256 sequences, share of tokens/s on the CPU host, bytes a token.
//
// 1. Two equal cores take the same steps in turn, round by round, one of them recorded (its payloads are dropped, as the worker's part ends
//    where they leave for the main thread). The difference of the medians is the recorder's.
// 2. The engine answers the same prompts with and without `record`, in turn, on the model of the argument (default: the embedded
//    one, whose steps are so short that the share is an upper bound). Median of the runs' tokens/s.
// Prints a table and writes bench/results/record-<model>-<date>.json.   node bench/record.mjs [--model DIR] [--runs N] [--sequences N]
import { mkdtempSync, rmSync, statSync } from 'node:fs';
import { cpus, loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { encodeCommand, WasmCore } from '../dist/core/index.js';
import { Engine } from '../dist/index.js';
import { RecordingCore, TraceRecorder } from '../dist/trace/index.js';
import { preparedResult } from './prepared_result.mjs';
import { writeReport } from './report.mjs';

const { values: flags } = parseArgs({
  options: {
    model: { type: 'string', default: new URL('../models/arithmetic', import.meta.url).pathname },
    runs: { type: 'string', default: '15' },
    sequences: { type: 'string', default: '256' },
    'max-tokens': { type: 'string', default: '200' },
  },
});
const sequences = Number(flags.sequences);
const limits = { us_per_step: 20, share: 0.03, bytes_per_token: 40 };

const quantile = (values, q) => [...values].sort((a, b) => a - b)[Math.floor(q * values.length)];
const median = (values) => quantile(values, 0.5);

async function decodingCore(longest) {
  const core = await WasmCore.create({
    maxNumSeqs: sequences,
    maxNumBatchedTokens: sequences * 16,
    maxModelLen: longest + 32,
    numBlocks: sequences * (Math.ceil(longest / 16) + 3),
    vocabSize: 50_000,
  });
  return core;
}

function addRequests(core, longest) {
  const requests = Array.from({ length: sequences }, (_, i) => ({
    id: i + 1,
    promptTokenIds: Array.from({ length: 1 + (i % 16) }, (_, at) => 1 + at + i),
    maxTokens: longest,
    ignoreEos: true,
    logprobs: 0,
  }));
  core.apply(encodeCommand(1, { type: 'addRequests', requests }));
}

async function costOfAStep() {
  const [rounds, steps] = [24, 200];
  const longest = 64 + rounds * steps;
  const result = preparedResult(sequences);
  const sides = [];
  for (const isRecorded of [false, true]) {
    const core = await decodingCore(longest);
    const header = {
      kadenzVersion: '',
      model: '',
      modelFingerprint: '',
      hostFingerprint: '',
      createdUnixMs: 0,
    };
    const clock = () => Math.floor(performance.now() * 1000);
    const driven = isRecorded
      ? new RecordingCore(core, new TraceRecorder(() => {}, core, { header, clock }))
      : core;
    addRequests(driven, longest);
    sides.push({ core: driven, step: 1, rounds: [] });
  }
  for (let round = 0; round < rounds + 2; round++) {
    for (const side of sides) {
      const times = [];
      for (let i = 0; i < (round === 0 ? 30 : steps) && round < rounds; i++) {
        result.setStep(side.step++);
        const begin = process.hrtime.bigint();
        side.core.schedule();
        side.core.schedule();
        side.core.commit(result.bytes);
        times.push(Number(process.hrtime.bigint() - begin) / 1000);
      }
      if (times.length > 30) side.rounds.push(median(times));
    }
  }
  const [plain, recorded] = sides.map((side) => median(side.rounds));
  return { plain_us: plain, recorded_us: recorded, recorder_us: recorded - plain };
}

async function runEngine(record) {
  const engine = await Engine.create({
    model: flags.model,
    maxNumSeqs: sequences,
    ...(record ? { record } : {}),
  });
  const requests = Array.from({ length: sequences / 8 }, (_, i) => ({
    promptTokenIds: Array.from({ length: 32 }, (_, at) => 3 + ((i + at) % 60)),
    n: 8,
    maxTokens: Number(flags['max-tokens']),
    ignoreEos: true,
  }));
  await engine.generate(requests.slice(0, 1));
  const begin = performance.now();
  const cpu = process.cpuUsage();
  const results = await engine.generate(requests);
  const seconds = (performance.now() - begin) / 1000;
  const { user, system } = process.cpuUsage(cpu);
  await engine.close();
  const tokens = results
    .flatMap(({ samples }) => samples)
    .reduce((sum, { tokenIds }) => sum + tokenIds.length, 0);
  return { tokens, tokens_per_s: tokens / seconds, cpu_us_per_token: (user + system) / tokens };
}

async function shareOfTokensPerSecond() {
  const folder = mkdtempSync(join(tmpdir(), 'kadenz-bench-'));
  const path = join(folder, 'run.kdz');
  const [plain, recorded, ratios, cpuRatios] = [[], [], [], []];
  let bytesPerToken = 0;
  for (let run = 0; run < Number(flags.runs) + 1; run++) {
    // Who goes first changes, so that neither has the quieter half of each pair.
    const order = run % 2 === 0 ? [undefined, path] : [path, undefined];
    const pair = new Map();
    for (const record of order) pair.set(record, await runEngine(record));
    if (run === 0) continue;
    plain.push(pair.get(undefined).tokens_per_s);
    recorded.push(pair.get(path).tokens_per_s);
    ratios.push(pair.get(path).tokens_per_s / pair.get(undefined).tokens_per_s);
    cpuRatios.push(pair.get(path).cpu_us_per_token / pair.get(undefined).cpu_us_per_token);
    bytesPerToken = statSync(path).size / pair.get(path).tokens;
  }
  rmSync(folder, { recursive: true });
  return {
    plain_tokens_per_s: median(plain),
    recorded_tokens_per_s: median(recorded),
    median_pair_ratio: median(ratios),
    quartiles_of_pair_ratio: [0.25, 0.75].map((q) => quantile(ratios, q)),
    median_cpu_time_ratio: median(cpuRatios),
    bytes_per_token: bytesPerToken,
    runs: ratios.length,
  };
}

const started = new Date();
const step = await costOfAStep();
const run = await shareOfTokensPerSecond();
const share = 1 - run.median_pair_ratio;
const row = (what, ours, limit) =>
  console.log(what.padEnd(52), String(ours).padStart(10), String(limit).padStart(10));
console.log(
  `node ${process.version}, ${cpus().length} x ${cpus()[0].model}, load ${loadavg()[0].toFixed(1)}`,
);
row('', 'measured', 'limit');
row(`recorder, us a step at ${sequences} sequences`, step.recorder_us.toFixed(1), limits.us_per_step);
row('  the core alone, us a step', step.plain_us.toFixed(1), '');
row(`tokens/s lost (median of ${run.runs} pairs)`, `${(100 * share).toFixed(1)} %`, '3 %');
row(
  '  without, with, tokens/s',
  `${run.plain_tokens_per_s.toFixed(0)} ${run.recorded_tokens_per_s.toFixed(0)}`,
  '',
);
const [low, high] = run.quartiles_of_pair_ratio.map((ratio) => `${(100 * (1 - ratio)).toFixed(1)} %`);
row('  half of the pairs lie between', `${high} ${low}`, '');
row('processor time more (median of pairs)', `${(100 * (run.median_cpu_time_ratio - 1)).toFixed(1)} %`, '');
row('bytes a token on disk', run.bytes_per_token.toFixed(1), limits.bytes_per_token);

const model = flags.model.replace(/\/+$/, '').split('/').at(-1);
await writeReport('record', {
  started,
  name: `record-${model}`,
  limits,
  sequences,
  step,
  run: { model, ...run, share_lost: share },
});
