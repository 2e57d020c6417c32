// One run of the workload on Kadenz. Arguments: model directory.
import { Engine } from 'kadenz';
import { MAX_MODEL_LEN, NEW_TOKENS, promptTokenIds, report, SAMPLES, THREADS } from './workload.mjs';

const prompts = promptTokenIds();
const engine = await Engine.create({
  model: process.argv[2],
  dtype: 'float32',
  maxModelLen: MAX_MODEL_LEN,
  maxNumSeqs: prompts.length * SAMPLES,
  kvCacheBlocks: (prompts.length * SAMPLES * MAX_MODEL_LEN) / 16,
  numThreads: THREADS,
});
const begin = performance.now();
const results = await engine.generate(
  prompts.map((promptTokenIds) => ({ promptTokenIds, n: SAMPLES, maxTokens: NEW_TOKENS, ignoreEos: true })),
);
const seconds = (performance.now() - begin) / 1000;
const tokens = results
  .flatMap((result) => result.samples)
  .reduce((sum, sample) => sum + sample.tokenIds.length, 0);
const stats = await engine.stats();
await engine.close();
report({
  tokens,
  seconds,
  detail: {
    weightBytes: engine.info.host.weightBytes,
    kvBytes: engine.info.host.kvBytes,
    preemptions: Number(stats.numPreemptions),
  },
});
