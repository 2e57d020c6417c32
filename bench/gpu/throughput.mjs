// One model, one engine, several workloads: output tokens per second of wall time, scheduling included. Prints a JSON line each.
// Arguments: model directory, then a JSON object: {"engine": {...EngineOptions}, "workloads": [{"name", "kind", ...}]}
import { Engine } from 'kadenz';
import { fixedLengths, logNormalLengths } from './workloads.mjs';

const [model, text] = process.argv.slice(2);
const { engine: options, workloads } = JSON.parse(text);
const starting = performance.now();
const engine = await Engine.create({ model, device: 'cuda', ...options });
console.log(
  JSON.stringify({
    model,
    startSeconds: (performance.now() - starting) / 1000,
    blocks: engine.info.kvCacheBlocks,
    host: engine.info.host,
  }),
);

async function timed(requests) {
  const begin = performance.now();
  const results = await engine.generate(requests);
  const seconds = (performance.now() - begin) / 1000;
  let tokens = 0;
  for (const { error, samples } of results) {
    if (error !== undefined) throw error;
    for (const sample of samples) tokens += sample.tokenIds.length;
  }
  return { seconds, tokens, results };
}

const { vocabSize } = engine.info;
await timed(fixedLengths({ requests: 4, promptTokens: 40, outputTokens: 8, vocabSize, seed: 99 }));
for (const { name, kind, repeat = 1, prefill = false, ...shape } of workloads) {
  const make = kind === 'log-normal' ? logNormalLengths : fixedLengths;
  for (let round = 0; round < repeat; round += 1) {
    const requests = make({ ...shape, vocabSize, seed: 7 + round });
    const prefillSeconds = prefill
      ? (await timed(requests.map((request) => ({ ...request, maxTokens: 1 })))).seconds
      : null;
    const { seconds, tokens } = await timed(requests);
    const line = { name, tokens, seconds, tokensPerSecond: tokens / seconds, prefillSeconds };
    if (prefillSeconds !== null) {
      const decodeTokens = tokens - requests.length;
      line.decodeTokensPerSecond = decodeTokens / (seconds - prefillSeconds);
      line.decodeStepMs = ((seconds - prefillSeconds) * 1000 * requests.length) / decodeTokens;
    }
    console.log(JSON.stringify(line));
  }
}
await engine.close();
const { gpuSteps, gpuBusyMs, gpuGapMs } = engine.info.host;
console.log(JSON.stringify({ gpuSteps, gpuBusyMs, gpuGapMs, gapShare: gpuGapMs / (gpuBusyMs + gpuGapMs) }));
