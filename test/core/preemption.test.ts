import { describe, expect, it } from 'vitest';
import { CoreDriver, promptOf } from '../support/core_driver.js';

/** Two prompts of a block each in a pool of three: the second output block of the second does not fit. */
async function tightPool(more = {}): Promise<{ driver: CoreDriver; ids: number[] }> {
  const driver = await CoreDriver.create({ numBlocks: 3, ...more });
  const ids = driver.add(
    { promptTokenIds: promptOf(16, 1), maxTokens: 8 },
    { promptTokenIds: promptOf(16, 2), maxTokens: 8 },
  );
  return { driver, ids };
}

const numbers = (driver: CoreDriver) => [driver.running, driver.waiting];

describe('preemption', () => {
  it('takes the last sequence by key when blocks run out, and computes all its tokens again later', async () => {
    const { driver, ids } = await tightPool({ enablePrefixCache: false });
    driver.step(({ request }) => 100 + request);
    expect(driver.step().computed).toMatchObject([{ request: ids[0], start: 16 }]);
    expect(numbers(driver)).toEqual([1, 1]);
    const plans = driver.run(({ request, output }) => 100 + request + output);
    const again = plans.find(({ computed }) => computed.some(({ request }) => request === ids[1]))!;
    expect(again.computed).toMatchObject([{ request: ids[1], start: 0, numTokens: 17 }]);
    expect(again.computed[0]!.tokenIds).toEqual([...promptOf(16, 2), 100 + ids[1]!]);
    expect(ids.map((id) => driver.tokensOf(id).length)).toEqual([8, 8]);
    expect(driver.finishes.map(({ request, preemptions }) => [request, preemptions])).toEqual([
      [ids[0], 0],
      [ids[1], 1],
    ]);
  });

  it('hits what the preempted sequence itself left in the cache', async () => {
    const { driver, ids } = await tightPool({ numBlocks: 4, maxNumSeqs: 3 });
    driver.step();
    driver.step();
    driver.apply({ type: 'pauseGeneration', mode: 'retract' });
    driver.apply({ type: 'resumeGeneration' });
    expect(
      driver.step().computed.map(({ request, start, numTokens }) => [request, start, numTokens]),
    ).toEqual([
      [ids[0], 16, 2],
      [ids[1], 16, 2],
    ]);
  });

  it('admits nobody in a schedule that has preempted', async () => {
    const { driver } = await tightPool();
    driver.step();
    driver.add({ promptTokenIds: promptOf(3, 3), priority: -1 });
    expect(driver.step().computed).toHaveLength(1);
    expect(driver.core.stats().numPreemptions).toBe(1);
    expect(numbers(driver)).toEqual([1, 2]);
  });

  it('puts a preempted sequence before requests that came later, and behind more urgent ones', async () => {
    const { driver, ids } = await tightPool({ maxNumSeqs: 2 });
    driver.step();
    const [late, urgent] = driver.add({ maxTokens: 1 }, { maxTokens: 1, priority: -1 });
    const order = driver.run().flatMap(({ computed }) => computed.map(({ request }) => request));
    expect(order.indexOf(urgent!)).toBeLessThan(order.lastIndexOf(ids[1]!));
    expect(order.indexOf(late!)).toBeGreaterThan(order.indexOf(ids[1]!, order.indexOf(urgent!)));
  });

  it('never preempts what comes earlier by key to make room for what comes later', async () => {
    const driver = await CoreDriver.create({ numBlocks: 3 });
    const [low] = driver.add({ promptTokenIds: promptOf(16, 1), maxTokens: 8, priority: 1 });
    driver.step();
    const [high] = driver.add({ promptTokenIds: promptOf(16, 2), maxTokens: 8, priority: 0 });
    driver.step();
    const plans = driver.run();
    expect(plans[0]!.computed.map(({ request }) => request)).toEqual([high]);
    expect(driver.finishes.map(({ request, preemptions }) => [request, preemptions])).toEqual([
      [high, 0],
      [low, 1],
    ]);
  });

  it('delivers the token that was in flight when its sequence was preempted, once, and goes on behind it', async () => {
    const { driver, ids } = await tightPool({ maxStepsInFlight: 2 });
    driver.schedule();
    // The second sequence's first token is still in flight when the first sequence takes the last block.
    expect(driver.schedule()!.computed.map(({ request }) => request)).toEqual([ids[0]]);
    expect(numbers(driver)).toEqual([1, 1]);
    const output = driver.commit(({ request }) => 100 + request);
    expect(output.tokens.map(({ request, tokenId }) => [request, tokenId])).toEqual([
      [ids[0], 100 + ids[0]!],
      [ids[1], 100 + ids[1]!],
    ]);
    driver.run(({ output: position }) => 200 + position);
    expect(driver.tokensOf(ids[1]!)).toEqual([100 + ids[1]!, 201, 202, 203, 204, 205, 206, 207]);
  });

  it('ends a preempted sequence whose last token was in flight, without running it again', async () => {
    const driver = await CoreDriver.create({ maxStepsInFlight: 2 });
    const [id] = driver.add({ maxTokens: 1 });
    driver.schedule();
    driver.apply({ type: 'resetPrefixCache', force: true });
    expect(numbers(driver)).toEqual([0, 1]);
    driver.commit();
    expect(driver.endOf(id!)).toBe('length');
    expect(driver.run()).toEqual([]);
    expect(driver.core.stats()).toMatchObject({ numRequests: 0, numWaiting: 0 });
  });

  it('does not admit a preempted sequence, nor anyone behind it, while a step of it is in flight', async () => {
    const driver = await CoreDriver.create({ maxStepsInFlight: 2 });
    const ids = driver.add({}, {});
    driver.schedule();
    driver.apply({ type: 'resetPrefixCache', force: true });
    expect(driver.schedule()).toBeNull();
    driver.commit();
    expect(driver.schedule()!.computed.map(({ request, numTokens }) => [request, numTokens])).toEqual(
      ids.map((id) => [id, 11]),
    );
  });

  it('reopens the slot with the tokens known so far when penalties count them', async () => {
    const driver = await CoreDriver.create();
    const [id] = driver.add({ frequencyPenalty: 0.5, minTokens: 3, stopTokenIds: [70] });
    const first = driver.step(() => 61);
    expect(first.plan.opens[0]).toMatchObject({ historyTokenIds: promptOf(10, id), stopTokenIds: [70] });
    driver.step(() => 62);
    driver.apply({ type: 'resetPrefixCache', force: true });
    const { plan } = driver.step(() => 63);
    expect(plan.opens[0]).toMatchObject({
      sample: 0,
      promptTokens: 10,
      historyTokenIds: [...promptOf(10, id), 61, 62],
    });
  });

  it('sends no history for a sequence without penalties', async () => {
    const driver = await CoreDriver.create();
    driver.add({ temperature: 0.5 });
    expect(driver.step().plan.opens[0]!.historyTokenIds).toEqual([]);
  });

  it('scores each prompt position once, though the prompt is computed twice', async () => {
    const driver = await CoreDriver.create({ longPrefillTokenThreshold: 16 });
    const [id] = driver.add({ promptTokenIds: promptOf(40), promptLogprobs: 0, maxTokens: 1 });
    const first = driver.step();
    expect(first.plan.scores.map(({ row }) => row)).toEqual(Array.from({ length: 16 }, (_, i) => i));
    driver.apply({ type: 'resetPrefixCache', force: true });
    const rest = driver.run();
    expect(rest.map(({ computed, plan }) => [computed[0]!.start, plan.scores.length])).toEqual([
      [0, 0],
      [16, 16],
      [32, 7],
    ]);
    expect(driver.endOf(id!)).toBe('length');
  });

  it('lets preempted sequences go on when all sequence records are theirs', async () => {
    // Each urgent newcomer is preempted by hand in turn; the two records that a core of one sequence has are used up by the second.
    const driver = await CoreDriver.create({ maxNumSeqs: 1 });
    const ids: number[] = [];
    for (const priority of [0, -1, -2]) {
      ids.push(...driver.add({ priority, maxTokens: 3 }));
      driver.step();
      driver.apply({ type: 'pauseGeneration', mode: 'retract' });
      driver.apply({ type: 'resumeGeneration' });
    }
    driver.run();
    expect(ids.map((id) => driver.endOf(id))).toEqual(['length', 'length', 'length']);
  });
});
