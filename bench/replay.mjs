// How fast a recorded run replays (mode plans): steps a minute at 64 sequences, without and with the plans' bytes in the trace, and from a
// compressed one.
//
// The run is made here: 64 sequences (8 requests of 8 samples, prompts of 100 tokens) that decode to the end, a host that answers at once.
// Each trace is replayed several times from its file, everything included but the start of the process: opening, checksums, verification,
// the core, the comparison. The rounds of the three kinds take turns, so that a slow minute of the machine is not one kind's alone. Prints
// a table with the ratio to the target (200,000 steps a minute) and writes bench/results/replay-<date>.json.
import { mkdtempSync, rmSync, statSync } from 'node:fs';
import { cpus, loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';
import { encodeCommand, encodeResult, messageBuffer, WasmCore } from '../dist/core/index.js';
import { Instruction, StepPlan } from '../dist/generated/index.js';
import { RecordingCore, replayTrace, TraceRecorder, TraceWriter } from '../dist/trace/index.js';
import { writeReport } from './report.mjs';

const targetStepsPerMinute = 200_000;
const sequences = 64;
const samples = 8;
const maxTokens = 4000;
const rounds = 5;
const kinds = [
  { name: 'digests', plans: false, compression: 'none' },
  { name: 'plans', plans: true, compression: 'none' },
  { name: 'digests, zstd', plans: false, compression: 'zstd' },
];

/** Records the run; gives the number of its steps. */
async function record(path, { plans, compression }) {
  const core = await WasmCore.create({
    maxNumSeqs: sequences,
    maxNumBatchedTokens: 4096,
    maxModelLen: 8192,
    numBlocks: sequences * 300,
    vocabSize: 50_000,
  });
  const writer = await TraceWriter.create(path, { compression });
  const began = performance.now();
  const recorder = new TraceRecorder((payload) => writer.write(payload), core, {
    header: {
      kadenzVersion: 'bench',
      model: '',
      modelFingerprint: '',
      hostFingerprint: '',
      createdUnixMs: 0,
    },
    clock: () => Math.floor((performance.now() - began) * 1000),
    plans,
  });
  const recording = new RecordingCore(core, recorder);
  const requests = Array.from({ length: sequences / samples }, (_, i) => ({
    id: i + 1,
    seed: i,
    n: samples,
    promptTokenIds: Array.from({ length: 100 }, (_, at) => 1 + ((i * 7 + at) % 49_999)),
    maxTokens,
    ignoreEos: true,
    logprobs: 0,
  }));
  recording.apply(encodeCommand(1, { type: 'addRequests', requests }));
  const inFlight = [];
  let step = 0;
  for (;;) {
    for (let bytes = recording.schedule(); bytes !== null; bytes = recording.schedule())
      inFlight.push(
        Instruction.getRootAsInstruction(messageBuffer(bytes)).work(new StepPlan()).sampleRowLength(),
      );
    const count = inFlight.shift();
    if (count === undefined) break;
    step += 1;
    recording.commit(
      encodeResult({
        step,
        tokenIds: Int32Array.from({ length: count }, (_, i) => 1 + ((i * 31 + step) % 49_999)),
        logprobs: Float32Array.from({ length: count }, (_, i) => -((i * 17 + step * 29) % 1000) / 100),
        ranks: new Uint32Array(count),
        topEnds: new Uint32Array(count),
      }),
    );
    // The writer's turn: this loop would hold all of the trace in memory.
    if (step % 256 === 0) await new Promise((resolve) => setImmediate(resolve));
  }
  recorder.end(core.digest());
  await writer.close();
  return step;
}

const median = (values) => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)];

const started = new Date();
const folder = mkdtempSync(join(tmpdir(), 'kadenz-bench-replay-'));
const rows = [];
try {
  const traces = [];
  for (const kind of kinds) {
    const path = join(folder, `${traces.length}.kdz`);
    traces.push({ ...kind, path, steps: await record(path, kind), times: [] });
  }
  for (let round = 0; round < rounds; round++) {
    for (const { path, steps, times } of traces) {
      const began = performance.now();
      const { difference, ended, numSteps } = await replayTrace(path);
      times.push(performance.now() - began);
      if (difference !== null || ended !== 'end' || numSteps !== steps)
        throw new Error('the replay is not equal');
    }
  }
  console.log(
    `node ${process.version}, ${cpus().length} x ${cpus()[0].model}, load ${loadavg()[0].toFixed(1)}, ${sequences} sequences`,
  );
  console.log(
    'trace            steps    bytes/token   steps/minute (median)   slowest round   ratio to 200,000',
  );
  for (const { name, path, steps, times } of traces) {
    const perMinute = (ms) => Math.round((steps / ms) * 60_000);
    const row = {
      trace: name,
      sequences,
      steps,
      bytes_per_token: statSync(path).size / (sequences * maxTokens),
      steps_per_minute: perMinute(median(times)),
      slowest_round_steps_per_minute: perMinute(Math.max(...times)),
      ratio_to_target: perMinute(median(times)) / targetStepsPerMinute,
    };
    rows.push(row);
    const columns = [
      row.trace.padEnd(14),
      String(row.steps).padStart(7),
      row.bytes_per_token.toFixed(1).padStart(14),
      row.steps_per_minute.toLocaleString('en').padStart(23),
      row.slowest_round_steps_per_minute.toLocaleString('en').padStart(15),
      row.ratio_to_target.toFixed(1).padStart(18),
    ];
    console.log(columns.join(' '));
  }
} finally {
  rmSync(folder, { recursive: true, force: true });
}

await writeReport('replay', { started, target_steps_per_minute_at_64: targetStepsPerMinute, rows });
const within = rows.every((row) => row.steps_per_minute >= targetStepsPerMinute);
console.log(within ? 'within the target' : 'below the target');
