// One model, one engine, several workloads: output tokens per second of wall time, scheduling included. Prints a JSON line each.
// Arguments: model directory, then a JSON object: {"engine": {...EngineOptions}, "workloads": [{"name", "requests", "repeat", ...}]}
// `prefill` also times the same prompts with one output token; with prefix caching once more with the prompts cached, and then the workload
// itself starts from there: the difference of the two is decode steps alone.
import { Engine } from 'kadenz';
import { makeRequests, runRequests } from './workloads.mjs';

const [model, text] = process.argv.slice(2);
const { engine: options, workloads } = JSON.parse(text);
const say = (line) => console.log(JSON.stringify(line));

const starting = performance.now();
const engine = await Engine.create({ model, device: 'cuda', ...options });
const { kvCacheBlocks, vocabSize, host } = engine.info;
say({ kind: 'start', model, startSeconds: (performance.now() - starting) / 1000, kvCacheBlocks, host });

async function timed(requests, how) {
  const before = await engine.stats();
  const measured = await runRequests(engine, requests, how);
  const after = await engine.stats();
  const difference = (name) => Number(after[name] - before[name]);
  return {
    ...measured,
    promptTokens: difference('promptTokens'),
    cachedPromptTokens: difference('cachedPromptTokens'),
    preemptions: difference('numPreemptions'),
  };
}

const oneToken = (requests) => requests.map((request) => ({ ...request, maxTokens: 1 }));

async function measure({ name, requests: shape, prefill = false }, round) {
  const requests = makeRequests({ ...shape, vocabSize, seed: 7 + round });
  await engine.resetPrefixCache({ force: true });
  const line = { kind: 'round', name, round };
  if (prefill) {
    const cold = await timed(oneToken(requests));
    const warm = options.enablePrefixCaching === false ? cold : await timed(oneToken(requests));
    line.prefillSeconds = cold.seconds;
    line.baseSeconds = warm.seconds;
  }
  const measured = await timed(requests, { promptsFirst: shape.kind === 'log-normal' });
  Object.assign(line, measured, { tokensPerSecond: measured.tokens / measured.seconds });
  if (prefill) {
    // Every sequence of these workloads has as many tokens, so the steps are those of any one of them.
    const steps = shape.outputTokens - 1;
    line.decodeStepMs = ((measured.seconds - line.baseSeconds) * 1000) / steps;
  }
  say(line);
}

await runRequests(
  engine,
  makeRequests({ kind: 'fixed', requests: 4, promptTokens: 40, outputTokens: 8, vocabSize, seed: 99 }),
);
for (const workload of workloads) {
  for (let round = 0; round < (workload.repeat ?? 1); round += 1) await measure(workload, round);
}
await engine.close();
const { gpuSteps, gpuBusyMs, gpuGapMs } = engine.info.host;
say({ kind: 'end', gpuSteps, gpuBusyMs, gpuGapMs, gapShare: gpuGapMs / (gpuBusyMs + gpuGapMs) });
