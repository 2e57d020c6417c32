import { describe, expect, it } from 'vitest';
import { stepTimeUs } from '../../dist/sim/cost_model.js';
import { simulateReplica } from '../../dist/sim/plan/replica.js';
import { groupsOf, type PlanCase, promptTokenIds } from '../../dist/sim/plan/workload.js';
import { planCase } from './plan_cases.js';

const run = (flags: Record<string, unknown>, replica = 0) => simulateReplica(planCase(flags), replica);

/** A prompt in one step, then a token a step. */
function closedForm(
  { device, model }: PlanCase,
  { prompt, output, n }: { prompt: number; output: number; n: number },
): number {
  const attendedTokens = (prompt * (prompt + 1)) / 2;
  let us = stepTimeUs(device, model, {
    numRows: prompt,
    numSequences: 1,
    contextTokens: prompt,
    numSamples: n,
    attendedTokens,
  });
  for (let token = 1; token < output; token += 1) {
    const contextTokens = n * (prompt + token);
    us += stepTimeUs(device, model, {
      numRows: n,
      numSequences: n,
      contextTokens,
      numSamples: n,
      attendedTokens: contextTokens,
    });
  }
  return us;
}

describe('a rollout on one replica', () => {
  it('of one sample takes exactly the time of its prompt and of a step for each further token', async () => {
    const flags = { prompts: 1, lengths: 'fixed:200', promptLengths: 'fixed:700' };
    const { timeUs, steps, tokens } = await run(flags);
    expect(timeUs).toBe(closedForm(planCase(flags), { prompt: 700, output: 200, n: 1 }));
    expect({ steps, tokens }).toEqual({ steps: 200, tokens: 200 });
  });

  it('of a group computes its prompt once', async () => {
    const flags = { prompts: 1, n: 16, lengths: 'fixed:50', promptLengths: 'fixed:700' };
    const { timeUs, peakBatch } = await run(flags);
    expect(timeUs).toBe(closedForm(planCase(flags), { prompt: 700, output: 50, n: 16 }));
    expect(peakBatch).toBe(16);
  });

  it('ends each sample at its drawn length, once', async () => {
    const flags = { prompts: 5, n: 6, lengths: 'lognormal:60,1,400', seed: 4 };
    const wanted = groupsOf(planCase(flags), 0).flatMap(({ lengths }) => Array.from(lengths));
    const { tokens, droppedTokens, finishUs, timeUs } = await run(flags);
    expect(tokens).toBe(wanted.reduce((a, b) => a + b));
    expect(droppedTokens).toBe(0);
    expect(finishUs).toHaveLength(30);
    expect(finishUs).toEqual(finishUs.slice().sort());
    expect(finishUs.at(-1)).toBe(timeUs);
  });

  it('preempts nobody where the KV pool suffices, and somebody when it is cut', async () => {
    const flags = { prompts: 8, n: 4, lengths: 'lognormal:300,0.7,900', promptLengths: 'fixed:64' };
    const roomy = await run({ ...flags, kvBlocks: 2400 });
    const tight = await run({ ...flags, kvBlocks: 400 });
    expect(roomy.preemptions).toBe(0);
    expect(roomy.peakKvShare).toBeLessThan(1);
    expect(tight.preemptions).toBeGreaterThan(0);
    expect(tight.timeUs).toBeGreaterThan(roomy.timeUs);
    expect(tight.tokens).toBe(roomy.tokens);
  });

  it('with over-sampling stops each prompt at the wanted number and is done sooner', async () => {
    const flags = { prompts: 4, n: 8, lengths: 'lognormal:200,1,3000', seed: 2 };
    const plain = await run(flags);
    const over = await run({ ...flags, oversample: 1.5 });
    expect(over.finishUs).toHaveLength(4 * 8);
    expect(over.droppedTokens).toBeGreaterThan(0);
    expect(over.timeUs).toBeLessThan(plain.timeUs);
  });

  it('counts as many samples as are wanted, even when more end in the same step', async () => {
    const { finishUs, tokens, droppedTokens } = await run({
      prompts: 3,
      n: 4,
      oversample: 2,
      lengths: 'fixed:50',
    });
    expect(finishUs).toHaveLength(12);
    expect({ tokens, droppedTokens }).toEqual({ tokens: 600, droppedTokens: 600 });
  });

  it('hands in more requests than the queue holds as others end', async () => {
    const { finishUs, steps } = await run({
      prompts: 1500,
      lengths: 'fixed:2',
      promptLengths: 'fixed:4',
      maxNumSeqs: 128,
    });
    expect(finishUs).toHaveLength(1500);
    expect(steps).toBeGreaterThan(1500 / 128);
  });

  it('finds a shared prefix in the cache for all prompts but those that start with the first', async () => {
    const flags = {
      prompts: 40,
      lengths: 'fixed:20',
      promptLengths: 'fixed:16',
      sharedPrefix: 256,
      maxNumSeqs: 4,
    };
    const { cachedPromptTokens, promptTokens } = await run(flags);
    expect(promptTokens).toBe(40 * 272);
    expect(cachedPromptTokens).toBe(36 * 256);
    expect((await run({ ...flags, sharedPrefix: 0, promptLengths: 'fixed:272' })).cachedPromptTokens).toBe(0);
  });

  it('draws curves that end with the last sample', async () => {
    const { points, timeUs } = await run({ prompts: 4, n: 4, lengths: 'fixed:5000' });
    expect(points.length).toBeGreaterThan(400);
    expect(points.length).toBeLessThan(1024);
    expect(points.at(-1)!.timeUs).toBeGreaterThan(timeUs * 0.99);
    const gaps = points.slice(1).map((point, i) => point.timeUs - points[i]!.timeUs);
    expect(Math.max(...gaps)).toBeLessThan(3 * Math.min(...gaps));
    expect(points.map(({ timeUs: us }) => us)).toEqual(
      points.map(({ timeUs: us }) => us).sort((a, b) => a - b),
    );
  });
});

describe('placement', () => {
  const samplesOf = (plan: PlanCase) =>
    Array.from({ length: plan.replicas }, (_, replica) => groupsOf(plan, replica)).flatMap(
      (groups, replica) =>
        groups.flatMap(({ prompt, lengths }) =>
          Array.from(lengths, (length) => ({ replica, prompt, length })),
        ),
    );

  it('by prefix keeps a group whole, by round-robin deals its samples; none is lost and none is drawn anew', () => {
    const flags = { prompts: 10, n: 6, lengths: 'lognormal:500,1', replicas: 4 };
    const whole = samplesOf(planCase(flags));
    const dealt = samplesOf(planCase({ ...flags, groupPlacement: 'round-robin' }));
    const bag = (samples: typeof whole) =>
      samples.map(({ prompt, length }) => prompt * 1e6 + length).sort((a, b) => a - b);
    expect(bag(dealt)).toEqual(bag(whole));
    const replicasOf = (samples: typeof whole, prompt: number) =>
      new Set(samples.filter((one) => one.prompt === prompt).map(({ replica }) => replica)).size;
    expect(replicasOf(whole, 3)).toBe(1);
    expect(replicasOf(dealt, 3)).toBe(4);
  });

  it('gives prompts that differ within their first block, but for the shared prefix', () => {
    const plan = planCase({ prompts: 300, promptLengths: 'fixed:40', sharedPrefix: 10 });
    const prompts = groupsOf({ ...plan, model: { ...plan.model, vocabSize: 20 } }, 0).map((group) =>
      Array.from(promptTokenIds(group, { ...plan, model: { ...plan.model, vocabSize: 20 } })),
    );
    expect(new Set(prompts.map((ids) => ids.slice(0, 10).join())).size).toBe(1);
    expect(new Set(prompts.map((ids) => ids.slice(0, 16).join())).size).toBe(300);
    expect(prompts.flat().every((id) => id > 0 && id < 20)).toBe(true);
  });
});
