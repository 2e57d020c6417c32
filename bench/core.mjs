// What one step of the core costs: schedule and commit, decoding of the result and encoding of plan and output included, digests on.
//
// Every sequence decodes in every step; prompts differ in length, so that in each step one sequence in sixteen enters a new block and
// registers the full one with the prefix cache. The result's bytes are prepared beforehand and its step number is patched in place,
// outside of the measured part: making them is the host's work. The three sizes are measured in turn, round by round, so that a slow
// minute of the machine is not one size's alone. Prints a table with the ratio to the target (60 ns a sequence at 1,024 sequences) and
// writes bench/results/core-<date>.json.
import { cpus, loadavg } from 'node:os';
import { encodeCommand, WasmCore } from '../dist/core/index.js';
import { preparedResult } from './prepared_result.mjs';
import { writeReport } from './report.mjs';

const targetNs = 60;
const blockSize = 16;
const warmupSteps = 64;
const rounds = 10;
const cases = [
  { sequences: 256, steps: 320 },
  { sequences: 1024, steps: 160 },
  { sequences: 8192, steps: 48 },
];

/** A core with that many sequences decoding, their prompts computed. */
async function decodingCore(sequences, steps, maxStepsInFlight) {
  const longest = blockSize + warmupSteps + rounds * steps + 8;
  const core = await WasmCore.create({
    maxNumSeqs: sequences,
    maxNumRequests: sequences,
    maxNumBatchedTokens: sequences * blockSize,
    maxModelLen: longest,
    numBlocks: sequences * (Math.ceil(longest / blockSize) + 1),
    blockSize,
    vocabSize: 50_000,
    maxStepsInFlight,
  });
  const requests = Array.from({ length: sequences }, (_, i) => ({
    id: i + 1,
    seed: i,
    promptTokenIds: Array.from({ length: 1 + (i % blockSize) }, (_, at) => 1 + ((i * 7 + at) % 49_999)),
    maxTokens: longest,
    ignoreEos: true,
    logprobs: 0,
  }));
  for (let first = 0; first < sequences; first += 512) {
    core.apply(
      encodeCommand(first + 1, { type: 'addRequests', requests: requests.slice(first, first + 512) }),
    );
  }
  return core;
}

const now = () => process.hrtime.bigint();

/** Nanoseconds of schedule + commit for each step. */
function measure(core, result, { firstStep, steps, times }) {
  // Whoever wants two steps in flight has scheduled one before: then each turn commits the step before the one it schedules.
  for (let i = 0; i < steps; i++) {
    result.setStep(firstStep + i);
    const begin = now();
    const instruction = core.schedule();
    const scheduled = now();
    if (instruction === null) throw new Error('the core had nothing to schedule');
    const resumed = now();
    core.commit(result.bytes);
    const end = now();
    times?.push(Number(scheduled - begin + (end - resumed)));
  }
  return firstStep + steps;
}

/** One size at one depth: `round()` measures some steps, `row()` sums them up. */
async function prepare({ sequences, steps }, depth) {
  const core = await decodingCore(sequences, steps, depth);
  const result = preparedResult(sequences);
  // The prompts: all fit one step.
  core.schedule();
  result.setStep(1);
  core.commit(result.bytes);
  if (depth === 2) core.schedule();
  let step = measure(core, result, { firstStep: 2, steps: warmupSteps });
  const times = [];
  const medians = [];
  const perSequence = (q) => quantile(times, q) / sequences;
  return {
    round() {
      const ofRound = [];
      step = measure(core, result, { firstStep: step, steps, times: ofRound });
      times.push(...ofRound);
      medians.push(quantile(ofRound, 0.5) / sequences);
    },
    row() {
      core.checkIntegrity();
      return {
        sequences,
        depth,
        steps: times.length,
        p50_ns_per_sequence: perSequence(0.5),
        p99_ns_per_sequence: perSequence(0.99),
        best_round_p50_ns_per_sequence: Math.min(...medians),
        p50_step_us: quantile(times, 0.5) / 1000,
        ratio_to_target: perSequence(0.5) / targetNs,
      };
    },
  };
}

function quantile(values, q) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))];
}

const rows = [];
const started = new Date();
console.log(
  `node ${process.version}, ${cpus().length} x ${cpus()[0].model}, load ${loadavg()[0].toFixed(1)}`,
);
console.log('sequences  depth   ns/sequence p50     p99   best round   us/step   ratio to 60 ns');
for (const depth of [1, 2]) {
  const prepared = [];
  for (const one of cases) prepared.push(await prepare(one, depth));
  for (let round = 0; round < rounds; round++) for (const one of prepared) one.round();
  for (const one of prepared) {
    const row = one.row();
    rows.push(row);
    const columns = [
      String(row.sequences).padStart(9),
      String(row.depth).padStart(5),
      row.p50_ns_per_sequence.toFixed(1).padStart(16),
      row.p99_ns_per_sequence.toFixed(1).padStart(7),
      row.best_round_p50_ns_per_sequence.toFixed(1).padStart(11),
      row.p50_step_us.toFixed(1).padStart(9),
      row.ratio_to_target.toFixed(2).padStart(16),
    ];
    console.log(columns.join('  '));
  }
}
for (const depth of [1, 2]) {
  const [, middle, large] = rows.filter((row) => row.depth === depth);
  const growth = large.p50_ns_per_sequence / middle.p50_ns_per_sequence;
  console.log(`depth ${depth}: a sequence at 8,192 costs ${growth.toFixed(2)} times one at 1,024`);
}

await writeReport('core', { started, target_ns_per_sequence_at_1024: targetNs, rows });
const within = rows
  .filter((row) => row.sequences === 1024)
  .every((row) => row.p50_ns_per_sequence <= targetNs);
console.log(within ? 'within the target' : 'over the target');
