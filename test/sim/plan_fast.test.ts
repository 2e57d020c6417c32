import { describe, expect, it } from 'vitest';
import { stepTimeUs } from '../../dist/sim/cost_model.js';
import { fastReplica } from '../../dist/sim/plan/fast.js';
import { FastPool } from '../../dist/sim/plan/fast_pool.js';
import { decodeTimeUs } from '../../dist/sim/plan/fast_state.js';
import { simulateReplica } from '../../dist/sim/plan/replica.js';
import { planCase } from './plan_cases.js';

async function bothWays(flags: Record<string, unknown>) {
  const plan = planCase(flags);
  return { core: await simulateReplica(plan, 0), fast: fastReplica(plan, 0) };
}

describe('the fast model', () => {
  it.each([
    ['one sample', { prompts: 1, lengths: 'fixed:300' }],
    ['groups in one wave', { prompts: 12, n: 16, lengths: 'lognormal:400,1,3000' }],
    ['several waves', { prompts: 40, n: 8, lengths: 'lognormal:300,0.8,1500', maxNumSeqs: 64 }],
    [
      'long prompts, a small budget',
      {
        prompts: 20,
        n: 4,
        lengths: 'lognormal:200,1,900',
        promptLengths: 'lognormal:900,0.7,4000',
        maxNumBatchedTokens: 512,
      },
    ],
    [
      'a shared prefix',
      { prompts: 30, n: 2, lengths: 'lognormal:200,1,900', sharedPrefix: 512, maxNumSeqs: 16 },
    ],
    [
      'over-sampling, samples of one length',
      { prompts: 40, n: 4, lengths: 'fixed:60', oversample: 2, maxNumSeqs: 32 },
    ],
    [
      'over-sampling in waves',
      { prompts: 8, n: 4, lengths: 'lognormal:300,1,1200', oversample: 1.25, maxNumSeqs: 16, seed: 2 },
    ],
    ['over-sampling', { prompts: 16, n: 8, lengths: 'lognormal:300,1,2500', oversample: 1.25 }],
  ])('is within 0.5% of the real core where blocks suffice: %s', async (_, flags) => {
    const { core, fast } = await bothWays({ seed: 5, ...flags });
    expect(core.preemptions).toBe(0);
    expect(Math.abs(fast.timeUs / core.timeUs - 1)).toBeLessThan(0.005);
    expect(fast.finishUs).toHaveLength(core.finishUs.length);
    expect(fast.tokens).toBe(core.tokens);
    expect(fast.droppedTokens).toBe(core.droppedTokens);
    expect(Math.abs(fast.belowHalfUs / core.belowHalfUs - 1) || 0).toBeLessThan(0.02);
  });

  it.each([
    ['some', { prompts: 16, n: 8, lengths: 'lognormal:400,0.8,2000', kvBlocks: 1800 }],
    ['many', { prompts: 16, n: 8, lengths: 'lognormal:400,0.8,2000', kvBlocks: 1200 }],
    [
      'all the time',
      { prompts: 12, n: 4, lengths: 'lognormal:400,0.8,2000', kvBlocks: 300, promptLengths: 'fixed:128' },
    ],
  ])('is within 3% of it where sequences are preempted: %s', async (_, flags) => {
    const { core, fast } = await bothWays({ ...flags, seed: 6 });
    expect(core.preemptions).toBeGreaterThan(10);
    expect(fast.preemptions).toBeGreaterThan(0);
    expect(fast.tokens).toBe(core.tokens);
    expect(Math.abs(fast.timeUs / core.timeUs - 1)).toBeLessThan(0.03);
  });
});

describe('a stretch of decode steps', () => {
  it('takes the sum of its steps, beyond the corner of the roofline too', () => {
    const plan = planCase();
    // Products bind at first; the KV that is read overtakes them on the way.
    const counts = { numRows: 1200, numSequences: 1200, numSamples: 1200 };
    const shapeAt = (contextTokens: number) => ({ ...counts, contextTokens, attendedTokens: contextTokens });
    let sum = 0;
    const timeAt = (step: number) => stepTimeUs(plan.device, plan.model, shapeAt(1200 * (1 + step)));
    for (let step = 0; step < 3000; step += 1) sum += timeAt(step);
    expect(timeAt(10) - timeAt(0)).toBeLessThan((timeAt(2999) - timeAt(2989)) / 2);
    expect(Math.abs(decodeTimeUs(plan, shapeAt(1200), 3000) / sum - 1)).toBeLessThan(1e-3);
  });
});

describe('the pool of the fast model', () => {
  it('gives out free blocks first, then those unheld the longest, and leaves the rest to whoever comes back', () => {
    const pool = new FastPool(10);
    const owner = { cachedBlocks: 0 };
    pool.take(8);
    pool.giveBack(3, null);
    pool.giveBack(4, owner);
    expect(pool.available).toBe(9);
    pool.take(6);
    expect(owner.cachedBlocks).toBe(3);
    expect(pool.reclaim(owner)).toBe(3);
    expect(pool.available).toBe(0);
    expect(() => pool.take(1)).toThrow('1 blocks less');
  });
});
