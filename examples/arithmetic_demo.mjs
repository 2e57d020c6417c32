// The main job on real input: the embedded model answers 64 arithmetic questions, 8 samples each, and every sample gets a reward, as in
// one rollout of an RL run. Prints a table of the rewards, then how fast it went.   npm run demo

import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import cliProgress from 'cli-progress';
import { Engine } from 'kadenz';

const SAMPLES = 8;
const MAX_TOKENS = 24;
const MODEL = fileURLToPath(new URL('../models/arithmetic', import.meta.url));

/** 1 if the last whole number of the text is the answer, else 0. */
function reward(text, answer) {
  const numbers = text.match(/\d+/g) ?? [];
  return Number(numbers.length > 0 && Number(numbers.at(-1)) === answer);
}

const lines = (await readFile(`${MODEL}/demo_prompts.jsonl`, 'utf8')).trim().split('\n');
const problems = lines.map((line) => JSON.parse(line));

const engine = await Engine.create({ model: MODEL, seed: 2026 });
const { host, dtype, kvCacheBlocks, blockSize } = engine.info;
console.log(
  `\n${problems.length} prompts x ${SAMPLES} samples at temperature 1, ${dtype} on the CPU (${host.isa ?? 'x86-64'})\n`,
);

const bar = new cliProgress.SingleBar({
  format: '{bar} {value}/{total} prompts | in {input} tok/s | out {output} tok/s',
  barCompleteChar: '█',
  barIncompleteChar: '░',
  barsize: 40,
  hideCursor: true,
  noTTYOutput: false,
});
bar.start(problems.length, 0, { input: 0, output: 0 });

const started = performance.now();
const seconds = () => (performance.now() - started) / 1000;
const timer = setInterval(async () => {
  const { promptTokens, generationTokens } = await engine.stats();
  bar.update({
    input: Math.round(promptTokens / seconds()),
    output: Math.round(generationTokens / seconds()),
  });
}, 100);

const rows = await Promise.all(
  problems.map(async ({ id, prompt, question, answer }) => {
    const { samples } = await engine.generate({ id, prompt, n: SAMPLES, maxTokens: MAX_TOKENS });
    bar.increment();
    const rewards = samples.map(({ text }) => reward(text, answer));
    return {
      question,
      best: Math.max(...rewards),
      mean: rewards.reduce((sum, value) => sum + value, 0) / SAMPLES,
    };
  }),
);
const elapsed = seconds();
const stats = await engine.stats();
clearInterval(timer);
bar.update({
  input: Math.round(stats.promptTokens / elapsed),
  output: Math.round(stats.generationTokens / elapsed),
});
bar.stop();
await engine.close();

printTable(rows);
printSummary();

/** Two problems a line: question, best and mean reward, and the mean as a bar. */
function printTable(entries) {
  const width = Math.max(...entries.map(({ question }) => question.length));
  const header = `${'prompt'.padEnd(width)}  best  mean  ${' '.repeat(SAMPLES)}`;
  const cell = ({ question, best, mean }) => {
    const filled = Math.round(mean * SAMPLES);
    const bars = '█'.repeat(filled) + '░'.repeat(SAMPLES - filled);
    return `${question.padEnd(width)}  ${String(best).padStart(4)}  ${mean.toFixed(2)}  ${bars}`;
  };
  const half = Math.ceil(entries.length / 2);
  console.log(`\n${header}    ${header}\n${'─'.repeat(2 * header.length + 4)}`);
  for (const [index, entry] of entries.slice(0, half).entries()) {
    const right = entries[half + index];
    console.log(`${cell(entry)}    ${right === undefined ? '' : cell(right)}`.trimEnd());
  }
}

function printSummary() {
  const mean = rows.reduce((sum, row) => sum + row.mean, 0) / rows.length;
  const solved = rows.filter(({ best }) => best === 1).length;
  const share = (part, whole) => `${((100 * part) / Math.max(whole, 1)).toFixed(1)} %`;
  const rate = (tokens) => `${Math.round(tokens / elapsed).toLocaleString('en')} tokens/s`;
  const facts = [
    [
      'mean reward',
      `${mean.toFixed(3)}; ${solved} of ${rows.length} prompts solved at least once in ${SAMPLES} samples`,
    ],
    ['time', `${elapsed.toFixed(1)} s`],
    ['output', `${stats.generationTokens.toLocaleString('en')} tokens, ${rate(stats.generationTokens)}`],
    ['input', `${stats.promptTokens.toLocaleString('en')} tokens, ${rate(stats.promptTokens)}`],
    ['prefix-cache hits', `${share(stats.cachedPromptTokens, stats.promptTokens)} of the input tokens`],
    ['preemptions', String(stats.numPreemptions)],
    ['KV cache', `${kvCacheBlocks.toLocaleString('en')} blocks of ${blockSize} tokens`],
  ];
  console.log();
  for (const [name, value] of facts) console.log(`${name.padEnd(18)} ${value}`);
}
