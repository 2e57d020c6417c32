// The fifteen behaviours that a scheduler of rollouts is expected to have, with exact numbers. Unless said otherwise: blocks of 16 tokens,
// a budget of 8192, 16 sequences, prompts of 10 tokens. The fifteenth, the random blast, has a file of its own (blast.test.ts).
import { describe, expect, it } from 'vitest';
import { CoreDriver, promptOf } from '../support/core_driver.js';

const eos = 2;
const range = (count: number) => Array.from({ length: count }, (_, i) => i);
const drafts = (count: number, length: number, more = {}) =>
  range(count).map((i) => ({ promptTokenIds: promptOf(length, i + 1), ...more }));

describe('behaviour 1: one step for all', () => {
  it('schedules ten prompts of ten tokens in one step, in order of arrival, and leaves none waiting', async () => {
    const driver = await CoreDriver.create();
    const ids = driver.add(...drafts(10, 10));
    const { computed } = driver.schedule()!;
    expect(computed.map(({ request, numTokens }) => [request, numTokens])).toEqual(ids.map((id) => [id, 10]));
    expect(driver.waiting).toBe(0);
    expect(driver.running).toBe(10);
  });
});

describe('behaviour 2: abort of what waits', () => {
  it('counts down from nine to zero as ten waiting requests are aborted one by one', async () => {
    const driver = await CoreDriver.create();
    const ids = driver.add(...drafts(10, 10));
    const counts = ids.map((id) => {
      driver.apply({ type: 'abortRequests', requestIds: [id] });
      expect(driver.endOf(id)).toBe('abort');
      return driver.waiting;
    });
    expect(counts).toEqual([9, 8, 7, 6, 5, 4, 3, 2, 1, 0]);
    expect(driver.schedule()).toBeNull();
  });
});

describe('behaviour 3: chunked prefill', () => {
  it('cuts three prompts of 800 by a budget of 1024 and a cap of 400 into 400/400/224, 400/400/224 and 1/1/352', async () => {
    const driver = await CoreDriver.create({ maxNumBatchedTokens: 1024, longPrefillTokenThreshold: 400 });
    driver.add(...drafts(3, 800));
    const steps = range(3).map(() => driver.step().computed.map(({ numTokens }) => numTokens));
    expect(steps).toEqual([
      [400, 400, 224],
      [400, 400, 224],
      [1, 1, 352],
    ]);
  });
});

describe('behaviour 4: stop ids and max_tokens', () => {
  const sampled = [10, 42, 12];

  it('ends with the stop id as the last token and names it', async () => {
    const driver = await CoreDriver.create();
    const [id] = driver.add({ stopTokenIds: [42, 43] });
    driver.run(({ output }) => sampled[output]!);
    expect(driver.tokensOf(id!)).toEqual([10, 42]);
    expect(driver.endOf(id!)).toBe('stop 42');
  });

  it('ends by length after max_tokens', async () => {
    const driver = await CoreDriver.create();
    const [id] = driver.add({ maxTokens: 2 });
    driver.run(({ output }) => 10 + output);
    expect(driver.tokensOf(id!)).toEqual([10, 11]);
    expect(driver.endOf(id!)).toBe('length');
  });

  it('stops at EOS and includes it, but goes on past it with ignore_eos', async () => {
    const driver = await CoreDriver.create();
    const [stops, goesOn] = driver.add({ maxTokens: 3, ignoreEos: false }, { maxTokens: 3, ignoreEos: true });
    driver.run(({ output }) => [10, eos, 12][output]!);
    expect(driver.tokensOf(stops!)).toEqual([10, eos]);
    expect(driver.endOf(stops!)).toBe(`stop ${eos}`);
    expect(driver.tokensOf(goesOn!)).toEqual([10, eos, 12]);
    expect(driver.endOf(goesOn!)).toBe('length');
  });
});

describe('behaviour 5: min_tokens', () => {
  it('passes over an EOS at the third token and stops at one at the ninth, with min_tokens 5', async () => {
    const driver = await CoreDriver.create();
    const [id] = driver.add({ minTokens: 5, ignoreEos: false });
    driver.run(({ output }) => (output === 2 || output === 8 ? eos : 10 + output));
    expect(driver.tokensOf(id!)).toEqual([10, 11, eos, 13, 14, 15, 16, 17, eos]);
    expect(driver.endOf(id!)).toBe(`stop ${eos}`);
  });

  it('passes over every EOS with the largest min_tokens that there is', async () => {
    const driver = await CoreDriver.create();
    const most = 2 ** 32 - 1;
    const [id] = driver.add({ minTokens: most, maxTokens: most, ignoreEos: false });
    for (let step = 0; step < 20; step++) driver.step(() => eos);
    expect(driver.tokensOf(id!)).toHaveLength(20);
  });

  it('takes an EOS that is exactly the fifth token', async () => {
    const driver = await CoreDriver.create();
    const [id] = driver.add({ minTokens: 5, ignoreEos: false });
    driver.run(({ output }) => (output >= 3 ? eos : 10));
    expect(driver.tokensOf(id!)).toHaveLength(5);
  });
});

describe('behaviour 6: the token budget', () => {
  it('runs two of three prompts of 50 in a budget of 100', async () => {
    const driver = await CoreDriver.create({ maxNumBatchedTokens: 100 });
    driver.add(...drafts(3, 50));
    expect(driver.schedule()!.computed.map(({ numTokens }) => numTokens)).toEqual([50, 50]);
    expect([driver.running, driver.waiting]).toEqual([2, 1]);
  });
});

describe('behaviour 7: reset of the prefix cache', () => {
  it('is refused while ten sequences run, and forced makes the ten wait again in the same order', async () => {
    const driver = await CoreDriver.create();
    const ids = driver.add(...drafts(10, 10));
    driver.step();
    const refused = driver.apply({ type: 'resetPrefixCache' });
    expect(refused.acks).toMatchObject([{ code: 'requests_running', value: 10 }]);
    expect([driver.running, driver.waiting]).toEqual([10, 0]);

    expect(driver.ackOf({ type: 'resetPrefixCache', force: true })).toBe('none');
    expect([driver.running, driver.waiting]).toEqual([0, 10]);
    const { computed } = driver.schedule()!;
    expect(computed.map(({ request, start, numTokens }) => [request, start, numTokens])).toEqual(
      ids.map((id) => [id, 0, 11]),
    );
  });
});

describe('behaviour 8: the same prompt twice', () => {
  it('computes only the four tokens of a prompt of 100 that six full blocks do not hold', async () => {
    const driver = await CoreDriver.create();
    const promptTokenIds = promptOf(100);
    const [first] = driver.add({ promptTokenIds });
    driver.run();
    const [second] = driver.add({ promptTokenIds });
    expect(driver.step().computed).toMatchObject([{ request: second, start: 96, numTokens: 4 }]);
    expect(driver.cachedTokensOf(first!)).toBe(0);
    expect(driver.cachedTokensOf(second!)).toBe(96);
  });
});

describe('behaviour 9: the next turn of a conversation', () => {
  it('computes 12 tokens of a prompt of 300 that is the turn before and its 200 outputs', async () => {
    const driver = await CoreDriver.create();
    const prompt = promptOf(100);
    const [first] = driver.add({ promptTokenIds: prompt, maxTokens: 200 });
    driver.run(({ output }) => 20 + output);
    driver.add({ promptTokenIds: [...prompt, ...driver.tokensOf(first!)] });
    expect(driver.step().computed).toMatchObject([{ start: 288, numTokens: 12 }]);
  });
});

describe('behaviour 10: a prompt that can never fit', () => {
  it('refuses a prompt of 16 blocks in a pool of 4 at once, with the reason, and runs those behind it', async () => {
    const driver = await CoreDriver.create({ numBlocks: 4 });
    const refused = driver.addRefused({ promptTokenIds: promptOf(256) });
    expect(refused).toMatchObject({ code: 'prompt_exceeds_kv_cache', value: 256, limit: 63, count: 1 });
    const ids = driver.add(...drafts(2, 20, { maxTokens: 4 }));
    driver.run();
    expect(ids.map((id) => driver.endOf(id))).toEqual(['length', 'length']);
  });
});

describe('behaviour 11: salts and prompt log-probs', () => {
  it('hits three blocks under the same salt, none under another, and never for prompt log-probs', async () => {
    const driver = await CoreDriver.create();
    const promptTokenIds = promptOf(50);
    driver.add({ promptTokenIds, cacheSalt: 7 });
    driver.run();
    const ids = driver.add(
      { promptTokenIds, cacheSalt: 7 },
      { promptTokenIds, cacheSalt: 8 },
      { promptTokenIds, cacheSalt: 7, promptLogprobs: 0 },
    );
    driver.step();
    expect(ids.map((id) => driver.cachedTokensOf(id))).toEqual([48, 0, 0]);
  });
});

describe('behaviour 12: priorities', () => {
  it('orders by priority, then by arrival: [2,1,1,0] arriving as [1,3,2,4] runs as 3,2,1,0', async () => {
    const driver = await CoreDriver.create();
    const priorities = [2, 1, 1, 0];
    const arrivals = [1, 3, 2, 4];
    const inOrderOfArrival = range(4).sort((a, b) => arrivals[a]! - arrivals[b]!);
    driver.add(...inOrderOfArrival.map((index) => ({ id: 100 + index, priority: priorities[index]! })));
    const order = driver.schedule()!.computed.map(({ request }) => request - 100);
    expect(order).toEqual([3, 2, 1, 0]);
  });
});

describe('behaviour 13: eviction', () => {
  it('evicts block 2 of a pool of two when block 1 is hit', async () => {
    const driver = await CoreDriver.create({ numBlocks: 2 });
    const [one, two] = [promptOf(16, 1), promptOf(16, 2)];
    driver.add({ promptTokenIds: one, maxTokens: 1 });
    const [first] = driver.step().plan.tableChanges;
    driver.add({ promptTokenIds: two, maxTokens: 1 });
    const [second] = driver.step().plan.tableChanges;
    expect(driver.core.stats().numCachedBlocks).toBe(2);

    driver.add({ promptTokenIds: [...one, 11], maxTokens: 1 });
    const { plan, computed } = driver.step();
    expect(computed).toMatchObject([{ start: 16, numTokens: 1 }]);
    expect(plan.tableChanges.map(({ block }) => block)).toEqual([first!.block, second!.block]);

    const [again, gone] = driver.add({ promptTokenIds: [...one, 12] }, { promptTokenIds: [...two, 12] });
    driver.run();
    expect([driver.cachedTokensOf(again!), driver.cachedTokensOf(gone!)]).toEqual([16, 0]);
  });
});

describe('behaviour 14: two steps in flight', () => {
  it('computes no token too many: the sum is that of prompt + max_tokens - 1', async () => {
    const driver = await CoreDriver.create({ maxStepsInFlight: 2 });
    const maxTokens = [1, 2, 3, 5];
    driver.add(...maxTokens.map((most) => ({ maxTokens: most })));
    const plans = driver.run();
    const scheduled = plans.flatMap(({ computed }) => computed.map(({ numTokens }) => numTokens));
    const expected = maxTokens.map((most) => 10 + most - 1);
    expect(scheduled.reduce((a, b) => a + b)).toBe(expected.reduce((a, b) => a + b));
    expect(driver.core.stats().computedTokens).toBe(47);
  });
});
