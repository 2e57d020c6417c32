import { describe, expect, it } from 'vitest';
import { CoreDriver, promptOf } from '../support/core_driver.js';

const samplesOf = (entries: { sample: number }[]) => entries.map(({ sample }) => sample);

describe('fan-out of n samples', () => {
  it('computes the prompt once and samples its last row once for each sample', async () => {
    const driver = await CoreDriver.create();
    driver.add({ promptTokenIds: promptOf(20), n: 4 });
    const { computed, sampled, plan } = driver.step();
    expect(computed).toMatchObject([{ sample: 0, start: 0, numTokens: 20 }]);
    expect(samplesOf(sampled)).toEqual([0, 1, 2, 3]);
    expect(plan.samples.map(({ row }) => row)).toEqual([19, 19, 19, 19]);
    expect(plan.opens.map(({ sample }) => sample)).toEqual([0, 1, 2, 3]);
    expect(driver.core.stats().numHeldBlocks).toBe(2);
  });

  it('copies the partial block once per further sample, and never a full one', async () => {
    const driver = await CoreDriver.create();
    driver.add({ promptTokenIds: promptOf(20), n: 4, maxTokens: 4 });
    const first = driver.step();
    const partial = first.plan.tableChanges.find(({ index }) => index === 1)!.block;
    const second = driver.step();
    expect(second.computed.map(({ sample, start }) => [sample, start])).toEqual([
      [0, 20],
      [1, 20],
      [2, 20],
      [3, 20],
    ]);
    expect(second.plan.copies.map(({ source }) => source)).toEqual([partial, partial, partial]);
    expect(new Set(second.plan.copies.map(({ target }) => target)).size).toBe(3);
    expect(driver.core.stats().numHeldBlocks).toBe(5);
    expect(driver.run().flatMap(({ plan }) => plan.copies)).toEqual([]);
  });

  it('copies nothing when the prompt ends with its block', async () => {
    const driver = await CoreDriver.create();
    driver.add({ promptTokenIds: promptOf(32), n: 3, maxTokens: 4 });
    expect(driver.run().flatMap(({ plan }) => plan.copies)).toEqual([]);
  });

  it('fans out of the last chunk of a chunked prompt', async () => {
    const driver = await CoreDriver.create({ longPrefillTokenThreshold: 12 });
    driver.add({ promptTokenIds: promptOf(30), n: 2, maxTokens: 2 });
    const plans = driver.run();
    const rows = plans.map(({ computed }) => computed.map(({ numTokens }) => numTokens));
    expect(rows).toEqual([[12], [12], [6], [1, 1]]);
    expect(plans.map(({ sampled }) => samplesOf(sampled))).toEqual([[], [], [0, 1], [0, 1]]);
  });

  it('gives each sample its own tokens and its own end', async () => {
    const driver = await CoreDriver.create();
    const [id] = driver.add({ n: 3, maxTokens: 4, stopTokenIds: [50] });
    driver.run(({ sample, output }) => (sample === 1 && output === 1 ? 50 : 100 * (sample + 1) + output));
    expect(driver.tokensOf(id!, 0)).toEqual([100, 101, 102, 103]);
    expect(driver.tokensOf(id!, 1)).toEqual([200, 50]);
    expect(driver.tokensOf(id!, 2)).toEqual([300, 301, 302, 303]);
    expect([0, 1, 2].map((sample) => driver.endOf(id!, sample))).toEqual(['length', 'stop 50', 'length']);
  });

  it('seats as many samples as there are slots; the rest follow as slots come free, sparing the full blocks', async () => {
    const driver = await CoreDriver.create({ maxNumSeqs: 2 });
    const [id] = driver.add({ promptTokenIds: promptOf(40), n: 5, maxTokens: 2 });
    const plans = driver.run();
    expect(plans.map(({ sampled }) => samplesOf(sampled))).toEqual([
      [0, 1],
      [0, 1],
      [2, 3],
      [2, 3],
      [4],
      [4],
    ]);
    expect(plans.map(({ computed }) => computed.map(({ start, numTokens }) => [start, numTokens]))).toEqual([
      [[0, 40]],
      [
        [40, 1],
        [40, 1],
      ],
      [[32, 8]],
      [
        [40, 1],
        [40, 1],
      ],
      [[32, 8]],
      [[40, 1]],
    ]);
    expect([0, 1, 2, 3, 4].map((sample) => driver.endOf(id!, sample))).toEqual(new Array(5).fill('length'));
    expect(driver.cachedTokensOf(id!)).toBe(0);
  });

  it('counts samples that have no seat as waiting and lets nobody with a larger key overtake them', async () => {
    const driver = await CoreDriver.create({ maxNumSeqs: 2 });
    const [group] = driver.add({ n: 3, maxTokens: 2 }, { n: 1, maxTokens: 2 });
    driver.step();
    expect([driver.running, driver.waiting]).toEqual([2, 2]);
    const order = driver.run().flatMap(({ sampled }) => sampled.filter(({ output }) => output === 0));
    expect(order.map(({ request, sample }) => [request === group, sample])).toEqual([
      [true, 2],
      [false, 0],
    ]);
  });

  it('delivers all samples of one token without a second step', async () => {
    const driver = await CoreDriver.create();
    const [id] = driver.add({ n: 3, maxTokens: 1 });
    expect(driver.run()).toHaveLength(1);
    expect([0, 1, 2].map((sample) => driver.tokensOf(id!, sample))).toEqual([[5], [5], [5]]);
    expect(driver.core.stats().computedTokens).toBe(10);
  });

  it('gives the group back as a whole when its leader is preempted before it has sampled', async () => {
    const driver = await CoreDriver.create({ longPrefillTokenThreshold: 16 });
    const [id] = driver.add({ promptTokenIds: promptOf(40), n: 3, maxTokens: 2 });
    driver.step();
    expect([driver.running, driver.waiting]).toEqual([3, 0]);
    driver.apply({ type: 'resetPrefixCache', force: true });
    expect([driver.running, driver.waiting]).toEqual([0, 3]);
    driver.run();
    expect([0, 1, 2].map((sample) => driver.endOf(id!, sample))).toEqual(['length', 'length', 'length']);
    expect(driver.finishes.map(({ preemptions }) => preemptions)).toEqual([1, 0, 0]);
    expect(driver.core.stats().numPreemptions).toBe(1);
  });

  it('aborts leader and followers each as a sample, and the unstarted ones as one', async () => {
    const driver = await CoreDriver.create({ longPrefillTokenThreshold: 4, maxNumSeqs: 2 });
    const [id] = driver.add({ n: 5 });
    driver.step();
    driver.apply({ type: 'abortRequests', requestIds: [id!] });
    expect(driver.finishes.map(({ sample, count, reason }) => [sample, count, reason])).toEqual([
      [0, 1, 'abort'],
      [1, 1, 'abort'],
      [2, 3, 'abort'],
    ]);
    expect(driver.core.stats()).toMatchObject({ numRequests: 0, numHeldBlocks: 0, numRunning: 0 });
  });

  it('shares blocks until they are written: a group costs its prompt once and a block or two per sample', async () => {
    const driver = await CoreDriver.create();
    driver.add({ promptTokenIds: promptOf(160), n: 8, maxTokens: 16 });
    driver.step();
    expect(driver.core.stats().numHeldBlocks).toBe(10);
    driver.step();
    expect(driver.core.stats().numHeldBlocks).toBe(18);
    driver.run();
    expect(driver.core.stats().numHeldBlocks).toBe(0);
  });
});
