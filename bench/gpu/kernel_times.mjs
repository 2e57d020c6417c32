// The time of a step by kernel, of a run that native/cuda/bench/kernel_times.cc watched, beside what the GPU allows.
//
//   cmake --build build/native -t kernel_times
//   KADENZ_KERNEL_TIMES=/tmp/times.csv CUDA_INJECTION64_PATH=build/native/cuda/libkernel_times.so node bench/gpu/throughput.mjs ...
//   node bench/gpu/kernel_times.mjs /tmp/times.csv --config DIR/config.json [--context 1536] [--steps largest --prompt 128]
//
// --steps decode (the default): the last 64 of those with the most frequent list of kernels, less the very last; `largest`: the median in time of
// those within a fifth of the one with the most work, which is a full prefill step. --context: tokens of a sequence in a decode step; --prompt: of a
// prompt. Rows of a step are --rows.
//
// Kernels overlap: one may begin before the one in front has ended. So each is given the time from the latest end so far to its own end, and
// these add up to the step; `idle` is what of it lies before the kernel's begin. `alone` is begin to end of the kernel itself.
import { readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { roleOf, shortName, workOf } from './kernel_roles.mjs';
import { H200 } from './roofline.mjs';

/** Every step has one. */
const FIRST_OF_A_STEP = 'prepare_rows';
const STEPS = 64;

const { values: flags, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    config: { type: 'string' },
    steps: { type: 'string', default: 'decode' },
    rows: { type: 'string', default: '256' },
    context: { type: 'string', default: '0' },
    prompt: { type: 'string', default: '0' },
  },
});

function readSteps(path) {
  const records = readFileSync(path, 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => {
      const [begin, end, ...name] = line.split(',');
      return { begin: Number(begin), end: Number(end), name: shortName(name.join(',')) };
    })
    .sort((a, b) => a.begin - b.begin);
  const steps = [];
  for (const record of records) {
    if (record.name.startsWith(FIRST_OF_A_STEP)) steps.push([]);
    steps.at(-1)?.push(record);
  }
  return steps;
}

const busyOf = (step) => step.reduce((sum, { begin, end }) => sum + end - begin, 0);

function chooseSteps(steps) {
  if (flags.steps === 'largest') {
    const most = Math.max(...steps.map(busyOf));
    const large = steps.filter((step) => busyOf(step) > 0.8 * most).sort((a, b) => busyOf(a) - busyOf(b));
    return [large[large.length >> 1]];
  }
  // Another number of rows takes other kernels.
  const listOf = (step) => step.map(({ name }) => name).join();
  const counts = new Map();
  for (const step of steps) counts.set(listOf(step), (counts.get(listOf(step)) ?? 0) + 1);
  const [list] = [...counts].reduce((most, entry) => (entry[1] > most[1] ? entry : most));
  return steps.filter((step) => listOf(step) === list).slice(-STEPS - 1, -1);
}

/** By role and kernel: calls, and nanoseconds. */
function sumUp(steps) {
  const rows = new Map();
  for (const step of steps) {
    let frontier = step[0].begin;
    step.forEach(({ begin, end, name }, index) => {
      const role = roleOf(step, index);
      const key = `${role}|${name}`;
      const row = rows.get(key) ?? { role, name, count: 0, time: 0, idle: 0, alone: 0 };
      rows.set(key, row);
      row.count += 1;
      row.alone += end - begin;
      row.idle += Math.max(0, begin - frontier);
      row.time += Math.max(0, end - frontier);
      frontier = Math.max(frontier, end);
    });
  }
  return [...rows.values()].sort((a, b) => b.time - a.time);
}

function shareOfLimit(work, nanoseconds) {
  if (work === undefined) return ['', ''];
  const { bytes, flops } = work;
  const ofBandwidth = bytes / H200.bytesPerSecond / (nanoseconds / 1e9);
  const ofFlops = flops / H200.flopsPerSecond / (nanoseconds / 1e9);
  return [ofBandwidth, ofFlops].map((share) => `${(100 * share).toFixed(0)} %`);
}

const chosen = chooseSteps(readSteps(positionals[0]));
const rows = sumUp(chosen);
const work =
  flags.config === undefined
    ? {}
    : workOf(JSON.parse(readFileSync(flags.config, 'utf8')), {
        rows: Number(flags.rows),
        context: Number(flags.context),
        prompt: Number(flags.prompt),
      });
const microseconds = (nanoseconds, digits = 1) => (nanoseconds / 1000).toFixed(digits);
const whole = rows.reduce((sum, { time }) => sum + time, 0) / chosen.length;
console.log(
  `${chosen.length} ${chosen.length === 1 ? 'step' : 'steps'} of ${microseconds(whole)} us by kernel:\n`,
);
const timeOfRole = (wanted) =>
  rows.reduce((sum, { role, time }) => sum + (role === wanted ? time : 0), 0) / chosen.length;
console.log(
  '| what | kernel | calls | us a step | share | us each | alone | idle before | of 4.3 TB/s | of 0.75 PF |',
);
console.log('|---|---|---|---|---|---|---|---|---|---|');
for (const { role, name, count, time, idle, alone } of rows) {
  const cells = [
    ...[role, name, count / chosen.length, microseconds(time / chosen.length)],
    `${((100 * time) / chosen.length / whole).toFixed(1)} %`,
    ...[microseconds(time / count, 2), microseconds(alone / count, 2), microseconds(idle / count, 2)],
    ...shareOfLimit(work[role], timeOfRole(role)),
  ];
  console.log(`| ${cells.join(' | ')} |`);
}
