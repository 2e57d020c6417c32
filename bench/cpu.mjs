// npm run bench:cpu — SmolLM2-135M, 32 prompts x 4 samples x 128 tokens: Kadenz against node-llama-cpp, in turn, on this machine.
//
// The same weights (float16), the same token ids, two threads each, five runs of each engine in processes of their own, one after the
// other. Needs .cache/smollm2 and .cache/smollm2-f16.gguf (`npm run model:smollm2` makes both); installs the peer into .cache/peer.
// Prints tokens/s and peak resident memory with their ratios and writes bench/results/cpu-<date>.json.
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { NEW_TOKENS, PROMPTS, SAMPLES, THREADS } from './cpu/workload.mjs';

const RUNS = Number(process.env.KADENZ_BENCH_RUNS ?? 5);
const PEER_VERSION = '3.22.1';
const MODEL = '.cache/smollm2';
const GGUF = '.cache/smollm2-f16.gguf';
const PEER_FOLDER = '.cache/peer';
const MEMORY_SLACK_BYTES = 300 * 1024 ** 2;

function requireModel() {
  if (existsSync(`${MODEL}/model.safetensors`) && existsSync(GGUF)) return;
  console.error(`bench:cpu needs ${MODEL} and ${GGUF}. Make them with: npm run model:smollm2`);
  process.exit(1);
}

function installPeer() {
  if (existsSync(`${PEER_FOLDER}/node_modules/@node-llama-cpp/linux-x64`)) return;
  mkdirSync(PEER_FOLDER, { recursive: true });
  writeFileSync(`${PEER_FOLDER}/package.json`, '{ "private": true }\n');
  const install = (name) =>
    execFileSync('npm', ['install', '--no-save', '--omit=optional', '--ignore-scripts', '--force', ...name], {
      cwd: PEER_FOLDER,
      stdio: 'inherit',
    });
  // Its optional packages are builds for every other platform, gigabytes of them.
  install([`node-llama-cpp@${PEER_VERSION}`, `@node-llama-cpp/linux-x64@${PEER_VERSION}`]);
}

function run(script, args) {
  const child = spawnSync(process.execPath, [script, ...args], {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  if (child.status !== 0) throw new Error(`${script} ended with ${child.status ?? child.signal}`);
  return JSON.parse(child.stdout.trim().split('\n').at(-1));
}

function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[sorted.length >> 1];
}

function summarise(runs) {
  const rates = runs.map((one) => one.tokens / one.seconds);
  return {
    tokensPerSecond: median(rates),
    slowest: Math.min(...rates),
    fastest: Math.max(...rates),
    peakBytes: Math.max(...runs.map((one) => one.peakBytes)),
  };
}

requireModel();
installPeer();
const ours = [];
const theirs = [];
for (let index = 0; index < RUNS; index += 1) {
  ours.push(run('bench/cpu/kadenz.mjs', [MODEL]));
  theirs.push(run('bench/cpu/peer.mjs', [GGUF, PEER_FOLDER]));
  const rate = (one) => (one.tokens / one.seconds).toFixed(0);
  console.error(
    `run ${index + 1} of ${RUNS}: kadenz ${rate(ours.at(-1))} tokens/s, node-llama-cpp ${rate(theirs.at(-1))} tokens/s`,
  );
}

const kadenz = summarise(ours);
const peer = summarise(theirs);
const { weightBytes, kvBytes } = ours[0];
const memoryLimitBytes = weightBytes + kvBytes + MEMORY_SLACK_BYTES;
const mib = (bytes) => (bytes / 1024 ** 2).toFixed(0);
const rows = [
  ['', 'kadenz', 'node-llama-cpp', 'limit', 'ratio'],
  [
    'tokens/s, median',
    kadenz.tokensPerSecond.toFixed(0),
    peer.tokensPerSecond.toFixed(0),
    '>= peer',
    `${(kadenz.tokensPerSecond / peer.tokensPerSecond).toFixed(2)}`,
  ],
  [
    'tokens/s, slowest .. fastest',
    `${kadenz.slowest.toFixed(0)} .. ${kadenz.fastest.toFixed(0)}`,
    `${peer.slowest.toFixed(0)} .. ${peer.fastest.toFixed(0)}`,
    '',
    '',
  ],
  [
    'peak resident, MiB',
    mib(kadenz.peakBytes),
    mib(peer.peakBytes),
    `<= ${mib(memoryLimitBytes)}`,
    (kadenz.peakBytes / memoryLimitBytes).toFixed(2),
  ],
];
console.log(
  `SmolLM2-135M float16, ${PROMPTS} prompts x ${SAMPLES} samples x ${NEW_TOKENS} tokens, ${THREADS} threads, ${cpus()[0].model}, ${RUNS} runs each in turn`,
);
for (const row of rows)
  console.log(row.map((cell, column) => (column === 0 ? cell.padEnd(30) : cell.padStart(17))).join(''));
console.log(`The limit of memory is weights (${mib(weightBytes)}) + KV cache (${mib(kvBytes)}) + 300 MiB.`);

const date = new Date().toISOString().slice(0, 10);
mkdirSync('bench/results', { recursive: true });
const record = {
  command: 'npm run bench:cpu',
  date,
  node: process.version,
  machine: cpus()[0].model,
  processors: cpus().length,
  kadenz: JSON.parse(readFileSync('package.json', 'utf8')).version,
  peer: `node-llama-cpp ${PEER_VERSION}`,
  modelBytes: statSync(`${MODEL}/model.safetensors`).size,
  summary: { kadenz, peer, memoryLimitBytes },
  runs: { kadenz: ours, peer: theirs },
};
writeFileSync(`bench/results/cpu-${date}.json`, `${JSON.stringify(record, null, 2)}\n`);
if (kadenz.tokensPerSecond < peer.tokensPerSecond || kadenz.peakBytes > memoryLimitBytes)
  process.exitCode = 1;
