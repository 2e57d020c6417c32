// npm run bench:gpu — what the CUDA host does on this GPU, beside what the GPU allows and beside others (bench/gpu/plan.mjs says what).
//
//   node bench/gpu.mjs [--only 1.5b,7b-64] [--peers]
//
// Each model is made once (KADENZ_GPU_MODELS, default .cache/gpu; needs python3 with torch, or KADENZ_PYTHON) and runs in processes of its
// own, one after the other. Prints a table and writes bench/results/gpu-<date>.json and .md; with --only the names are in the file's name.
// --peers also times transformers on the 1.5B workload, in the same run. The exit code is 1 where a target is missed.
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { probeHost } from '../dist/index.js';
import { engineRuns, WORKLOADS } from './gpu/plan.mjs';
import { H200 } from './gpu/roofline.mjs';
import { priceRow, rowOf, tableOf } from './gpu/rows.mjs';
import { writeReport } from './report.mjs';

const MODELS = process.env.KADENZ_GPU_MODELS ?? '.cache/gpu';
const PYTHON = process.env.KADENZ_PYTHON ?? 'python3';
const PEER_WORKLOAD = '1.5b';

function fail(sentence) {
  console.error(`bench:gpu: ${sentence}`);
  process.exit(1);
}

function chosenWorkloads(only) {
  if (only === undefined) return WORKLOADS;
  const names = only.split(',');
  const known = WORKLOADS.map(({ name }) => name);
  for (const name of names) {
    if (!known.includes(name)) fail(`there is no workload '${name}'; there are ${known.join(', ')}.`);
  }
  return WORKLOADS.filter(({ name }) => names.includes(name));
}

function requireGpu() {
  const { usable, cuda, problems } = probeHost({ certify: false });
  if (usable) return cuda;
  fail(`this machine can't run it. ${problems.map(({ sentence }) => sentence).join(' ')}`);
}

function modelFolder(shape) {
  const folder = join(MODELS, shape);
  if (!existsSync(join(folder, 'model.safetensors'))) {
    const { status } = spawnSync(PYTHON, ['bench/gpu/make_model.py', shape, folder], { stdio: 'inherit' });
    if (status !== 0)
      fail(`${PYTHON} bench/gpu/make_model.py ${shape} failed; it needs torch and safetensors.`);
  }
  return folder;
}

/** The JSON lines that a program prints; what it says besides goes to the terminal. */
function linesOf(program, args) {
  const options = { encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'], maxBuffer: 2 ** 28 };
  const { status, signal, stdout, error } = spawnSync(program, args, options);
  if (error !== undefined || status !== 0) {
    fail(`${args[0]} ended with ${error?.message ?? signal ?? status}.\n${stdout ?? ''}`);
  }
  const lines = stdout.split('\n').filter((line) => line.startsWith('{'));
  return lines.map((line) => JSON.parse(line));
}

function runEngine(workloads) {
  const [{ model, engine, measure }] = workloads;
  const script = measure === 'price' ? 'bench/gpu/price.mjs' : 'bench/gpu/throughput.mjs';
  const asked = workloads.map(({ name, requests, repeat, prefill, measure }) => ({
    ...{ name, requests, repeat },
    prefill: prefill ?? measure === 'decode',
  }));
  console.error(`${model}: ${workloads.map(({ name }) => name).join(', ')} ...`);
  return linesOf(process.execPath, [
    script,
    modelFolder(model),
    JSON.stringify({ engine, workloads: asked }),
  ]);
}

function runPeers() {
  const { model, requests } = WORKLOADS.find(({ name }) => name === PEER_WORKLOAD);
  console.error('transformers on the 1.5B workload (the first calls compile, a minute or two) ...');
  const sizes = [requests.requests, requests.promptTokens, requests.outputTokens].map(String);
  return linesOf(PYTHON, ['bench/gpu/transformers_peer.py', modelFolder(model), ...sizes]);
}

const { values: flags } = parseArgs({
  options: { only: { type: 'string' }, peers: { type: 'boolean', default: false } },
});
const started = new Date();
const workloads = chosenWorkloads(flags.only);
const cuda = requireGpu();
const rows = [];
const prices = [];
const runs = [];
const peers = flags.peers ? runPeers() : [];
const bestPeer = peers.toSorted((a, b) => b.tokensPerSecond - a.tokensPerSecond)[0];
for (const group of engineRuns(workloads)) {
  const lines = runEngine(group);
  const config = JSON.parse(readFileSync(join(MODELS, group[0].model, 'config.json'), 'utf8'));
  runs.push({ model: group[0].model, engine: group[0].engine, lines });
  for (const workload of group) {
    const rounds = lines.filter(({ kind, name }) => kind === 'round' && name === workload.name);
    if (workload.measure === 'price') prices.push(priceRow(workload, rounds));
    else {
      const peer = workload.name === PEER_WORKLOAD && bestPeer ? bestPeer : workload.peer;
      rows.push(rowOf(workload, { rounds, config, peer, end: lines.at(-1) }));
    }
  }
}

const start = runs[0].lines[0];
const gpu = {
  name: start.host.isa,
  driver: cuda.driver?.version,
  cublaslt: cuda.cublaslt?.version,
  fingerprint: start.host.fingerprint,
};
const name = flags.only === undefined ? 'gpu' : `gpu-${workloads.map((one) => one.name).join('_')}`;
const table = tableOf({ rows, prices, peers, gpu, date: started.toISOString().slice(0, 10) });
console.log(table);
await writeReport('gpu', { started, name, gpu, limits: H200, rows, prices, peers, runs });
writeFileSync(
  new URL(`results/${name}-${started.toISOString().slice(0, 10)}.md`, import.meta.url),
  `${table}\n`,
);
if ([...rows, ...prices].some(({ meetsTarget }) => meetsTarget === false)) process.exitCode = 1;
