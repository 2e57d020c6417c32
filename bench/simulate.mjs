// How many runs a minute the simulator makes: the real core, the simulated host, all checkers, faults on.
//
//   node bench/simulate.mjs [runs] [steps] [workers]      default: 400 runs of 500 steps, a thread for each processor
//
// The target is 10,000 runs of 500 steps in 10 minutes on 2 cores. CPU time is what the machine's other work does not
// change, so the figure that the target is held against is CPU time of all threads, spread over 2 cores. Writes
// bench/results/simulate-<date>.json.
import { availableParallelism, cpus, loadavg } from 'node:os';
import { runSession } from '../dist/sim/session.js';
import { writeReport } from './report.mjs';

const TARGET_RUNS = 10_000;
const TARGET_MINUTES = 10;
const TARGET_CORES = 2;

const [runs = 400, steps = 500, workers = availableParallelism()] = process.argv.slice(2).map(Number);
const began = process.hrtime.bigint();
const cpuBefore = process.cpuUsage();
const report = await runSession({
  seed: 1n,
  runs,
  steps,
  workers,
  workload: 'any',
  faults: 'swarm',
  kadenzVersion: version,
});
const wallSeconds = Number(process.hrtime.bigint() - began) / 1e9;
const { user, system } = process.cpuUsage(cpuBefore);
const cpuSeconds = (user + system) / 1e6;
if (report.failure !== null) throw new Error(`seed ${report.failure.seed} fails: ${report.failure.sentence}`);

const row = {
  runs,
  steps_per_run: steps,
  workers,
  steps: report.totals.steps,
  wall_seconds: wallSeconds,
  cpu_seconds: cpuSeconds,
  runs_per_minute: (60 * runs) / wallSeconds,
  cpu_us_per_step: (1e6 * cpuSeconds) / report.totals.steps,
  cpu_ms_per_run: (1000 * cpuSeconds) / runs,
  minutes_for_target_on_2_cores: ((cpuSeconds / runs) * TARGET_RUNS) / TARGET_CORES / 60,
  digest: report.digest,
};
console.log(
  `node ${process.version}, ${cpus().length} x ${cpus()[0].model}, load ${loadavg()[0].toFixed(1)}`,
);
console.log(
  `${runs} runs of ${steps} steps (${row.steps} in all, the liveness phase included) by ${workers} threads`,
);
console.log(`${row.runs_per_minute.toFixed(0)} runs a minute, ${wallSeconds.toFixed(1)} s`);
console.log(`CPU: ${row.cpu_ms_per_run.toFixed(1)} ms a run, ${row.cpu_us_per_step.toFixed(1)} us a step`);
console.log(
  `${TARGET_RUNS} such runs take ${row.minutes_for_target_on_2_cores.toFixed(1)} minutes of ${TARGET_CORES} cores; the target is ${TARGET_MINUTES}`,
);

const started = new Date();
await writeReport('simulate', { started, target_minutes: TARGET_MINUTES, rows: [row] });
