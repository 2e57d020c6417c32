import { describe, expect, it } from 'vitest';
import { CoreDriver, promptOf } from '../support/core_driver.js';

/** Tokens that a request with this prompt is spared. */
function cachedFor(driver: CoreDriver, promptTokenIds: number[], more = {}): number {
  const [id] = driver.add({ promptTokenIds, maxTokens: 1, ...more });
  driver.run();
  return driver.cachedTokensOf(id!)!;
}

describe('the prefix cache', () => {
  it('always computes at least the last token of a prompt: a prompt of exactly three blocks hits two', async () => {
    const driver = await CoreDriver.create();
    const prompt = promptOf(48);
    cachedFor(driver, prompt);
    expect(cachedFor(driver, prompt)).toBe(32);
    expect(cachedFor(driver, [...prompt, 11])).toBe(48);
  });

  it('hits the longest common prefix of whole blocks', async () => {
    const driver = await CoreDriver.create();
    const prompt = promptOf(80);
    cachedFor(driver, prompt);
    const forks = [70, 47, 15].map((length) => [...prompt.slice(0, length), 9, ...promptOf(20, 3)]);
    expect(forks.map((fork) => cachedFor(driver, fork))).toEqual([64, 32, 0]);
  });

  it('does not hit a block of the same tokens behind other tokens', async () => {
    const driver = await CoreDriver.create();
    const [head, other, tail] = [promptOf(16, 1), promptOf(16, 2), promptOf(17, 3)];
    cachedFor(driver, [...head, ...tail]);
    cachedFor(driver, [...other, 5]);
    expect(cachedFor(driver, [...other, ...tail])).toBe(16);
    expect(cachedFor(driver, tail)).toBe(0);
  });

  it('keeps adapters apart', async () => {
    const driver = await CoreDriver.create();
    for (const adapter of [1, 2]) {
      driver.apply({ type: 'loadAdapter', adapter, name: `adapter ${adapter}`, path: '/adapters' });
      driver.control();
    }
    const prompt = promptOf(40);
    expect(cachedFor(driver, prompt, { adapter: 1 })).toBe(0);
    expect(cachedFor(driver, prompt)).toBe(0);
    expect(cachedFor(driver, prompt, { adapter: 2 })).toBe(0);
    expect(cachedFor(driver, prompt, { adapter: 1 })).toBe(32);
  });

  it('forgets what an adapter computed when it is unloaded, so that another of its number cannot hit it', async () => {
    const driver = await CoreDriver.create();
    const load = { type: 'loadAdapter', adapter: 1, name: 'one', path: '/adapters' } as const;
    driver.apply(load);
    driver.control();
    cachedFor(driver, promptOf(40), { adapter: 1 });
    driver.apply({ type: 'unloadAdapter', adapter: 1 });
    driver.apply(load);
    driver.control();
    driver.control();
    expect(cachedFor(driver, promptOf(40), { adapter: 1 })).toBe(0);
  });

  it('hits nothing of an older weight version', async () => {
    const driver = await CoreDriver.create();
    cachedFor(driver, promptOf(40));
    driver.apply({ type: 'beginWeightUpdate' });
    driver.control();
    driver.apply({ type: 'finishWeightUpdate', version: 1 });
    driver.control();
    expect(cachedFor(driver, promptOf(40))).toBe(0);
    expect(cachedFor(driver, promptOf(40))).toBe(32);
  });

  it('holds one block per content: of two equal prompts in one step, one leaves its blocks to the cache', async () => {
    const driver = await CoreDriver.create();
    const promptTokenIds = promptOf(40);
    driver.add({ promptTokenIds, maxTokens: 1 }, { promptTokenIds, maxTokens: 1 });
    expect(driver.step().computed.map(({ numTokens }) => numTokens)).toEqual([40, 40]);
    const { numCachedBlocks, numFreeBlocks } = driver.core.stats();
    expect([numCachedBlocks, numFreeBlocks]).toEqual([2, 998]);
  });

  it('lets a prompt hit what another has computed only once that step is committed', async () => {
    const driver = await CoreDriver.create({ maxStepsInFlight: 2 });
    const promptTokenIds = promptOf(40);
    driver.add({ promptTokenIds });
    driver.schedule();
    const [second] = driver.add({ promptTokenIds });
    driver.schedule();
    const [third] = driver.add({ promptTokenIds });
    driver.run();
    expect(driver.cachedTokensOf(second!)).toBe(0);
    expect(driver.cachedTokensOf(third!)).toBe(32);
  });

  it('keeps nothing of a step that failed', async () => {
    const driver = await CoreDriver.create();
    driver.add({ promptTokenIds: promptOf(40) });
    driver.schedule();
    driver.failStep();
    expect(driver.core.stats().numFreeBlocks).toBe(1000);
    expect(cachedFor(driver, promptOf(40))).toBe(0);
  });

  it('loses the end of a prefix before its beginning', async () => {
    const driver = await CoreDriver.create({ numBlocks: 4 });
    const prompt = promptOf(48);
    cachedFor(driver, [...prompt, 11]);
    expect(driver.core.stats().numCachedBlocks).toBe(3);
    // One free block is left; two more are taken from the end of the chain.
    cachedFor(driver, promptOf(47, 5));
    expect(cachedFor(driver, [...prompt, 11])).toBe(16);
  });

  it('hits a block that a running sequence still holds, and shares it', async () => {
    const driver = await CoreDriver.create();
    const promptTokenIds = promptOf(40);
    driver.add({ promptTokenIds });
    const first = driver.step();
    const [second] = driver.add({ promptTokenIds });
    const { plan } = driver.step();
    expect(driver.cachedTokensOf(second!)).toBe(32);
    const shared = plan.tableChanges.filter(({ index }) => index < 2).map(({ block }) => block);
    expect(shared).toEqual(first.plan.tableChanges.slice(0, 2).map(({ block }) => block));
    expect(driver.core.stats().numHeldBlocks).toBe(4);
  });

  it('is off when the configuration says so', async () => {
    const driver = await CoreDriver.create({ enablePrefixCache: false });
    cachedFor(driver, promptOf(40));
    expect(cachedFor(driver, promptOf(40))).toBe(0);
    expect(driver.core.stats().numFreeBlocks).toBe(1000);
  });
});

describe('KV of older weights, kept over an update', () => {
  async function updateAfterFirstChunk(n: number): Promise<CoreDriver> {
    const driver = await CoreDriver.create({ longPrefillTokenThreshold: 16 });
    driver.add({ promptTokenIds: promptOf(40), n, maxTokens: 3 });
    driver.step();
    driver.apply({ type: 'pauseGeneration', mode: 'keep' });
    driver.apply({ type: 'beginWeightUpdate' });
    driver.apply({ type: 'finishWeightUpdate', version: 1 });
    driver.control();
    driver.control();
    driver.apply({ type: 'resumeGeneration' });
    return driver;
  }

  it('is never hit, though the sequence that holds it goes on', async () => {
    const driver = await updateAfterFirstChunk(1);
    expect(driver.schedule()!.computed).toMatchObject([{ start: 16, numTokens: 16 }]);
    driver.commit();
    driver.run();
    expect(cachedFor(driver, promptOf(40))).toBe(0);
  });

  it('is never hit through the samples that were fanned out from it', async () => {
    const driver = await updateAfterFirstChunk(3);
    driver.run();
    expect(cachedFor(driver, promptOf(40))).toBe(0);
  });

  it('is computed anew after a preemption, and hit from then on', async () => {
    const driver = await updateAfterFirstChunk(1);
    driver.apply({ type: 'resetPrefixCache', force: true });
    expect(driver.schedule()!.computed).toMatchObject([{ start: 0, numTokens: 16 }]);
    driver.commit();
    driver.run();
    expect(cachedFor(driver, promptOf(40))).toBe(32);
  });
});
