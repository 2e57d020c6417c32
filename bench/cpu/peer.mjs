// One run of the workload on node-llama-cpp (CPU). Arguments: GGUF file, folder where the package is installed.
import { createRequire } from 'node:module';
import { join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { MAX_MODEL_LEN, NEW_TOKENS, promptTokenIds, report, SAMPLES, THREADS } from './workload.mjs';

const [modelPath, folder] = process.argv.slice(2);
const require = createRequire(join(resolve(folder), 'package.json'));
const { getLlama } = await import(pathToFileURL(require.resolve('node-llama-cpp')).href);

const prompts = promptTokenIds();
const sequences = prompts.length * SAMPLES;
const llama = await getLlama({ gpu: false, build: 'never', maxThreads: THREADS, logLevel: 'error' });
const model = await llama.loadModel({ modelPath });
const context = await model.createContext({
  sequences,
  contextSize: MAX_MODEL_LEN,
  batchSize: 2048,
  threads: THREADS,
  batching: { itemPrioritizationStrategy: 'maximumParallelism' },
});

async function sample(promptTokenIds, seed) {
  const sequence = context.getSequence();
  // Its own default of top-k 40 spares it a pass over the whole vocabulary for each token; Kadenz samples from all of it.
  const options = { temperature: 1, topK: 40, topP: 1, minP: 0, seed, yieldEogToken: true };
  let count = 0;
  for await (const _token of sequence.evaluate(promptTokenIds, options)) if (++count === NEW_TOKENS) break;
  return count;
}

const begin = performance.now();
const counts = await Promise.all(
  prompts.flatMap((ids, p) => Array.from({ length: SAMPLES }, (_, s) => sample(ids, p * SAMPLES + s))),
);
const seconds = (performance.now() - begin) / 1000;
report({ tokens: counts.reduce((a, b) => a + b, 0), seconds, detail: { systemInfo: llama.systemInfo } });
await llama.dispose();
