import { describe, expect, it } from 'vitest';
import { CoreDriver, promptOf } from '../support/core_driver.js';

describe('two steps in flight', () => {
  it('plans the second before the first is answered, naming the samples of the first as its tokens', async () => {
    const driver = await CoreDriver.create({ maxStepsInFlight: 2 });
    driver.add({}, {});
    driver.schedule();
    const second = driver.schedule()!;
    expect(second.computed.map(({ start, tokenIds }) => [start, tokenIds])).toEqual([
      [10, [-1]],
      [10, [-2]],
    ]);
    expect(driver.schedule()).toBeNull();
    driver.commit(() => 77);
    expect(driver.schedule()!.computed.map(({ start, tokenIds }) => [start, tokenIds])).toEqual([
      [11, [-1]],
      [11, [-2]],
    ]);
  });

  it('names the known token once the step before has been committed', async () => {
    const driver = await CoreDriver.create({ maxStepsInFlight: 1 });
    driver.add({});
    driver.step(() => 77);
    expect(driver.schedule()!.computed[0]!.tokenIds).toEqual([77]);
  });

  it('drops the row of a sequence that stopped in the step before, and frees its blocks when that row is committed', async () => {
    const driver = await CoreDriver.create({ maxStepsInFlight: 2 });
    const [id] = driver.add({ stopTokenIds: [42] });
    driver.schedule();
    driver.schedule();
    expect(driver.commit(() => 42).finishes).toMatchObject([{ request: id, reason: 'stop', stopToken: 42 }]);
    expect(driver.core.stats()).toMatchObject({ numRunning: 0, numRequests: 0, numHeldBlocks: 1 });
    expect(driver.schedule()).toBeNull();
    const late = driver.commit(() => 43);
    expect([late.tokens, late.finishes]).toEqual([[], []]);
    expect(driver.tokensOf(id!)).toEqual([42]);
    expect(driver.core.stats()).toMatchObject({ numHeldBlocks: 0, numFreeBlocks: 1000 });
  });

  it('keeps rows apart when a sequence between others stops', async () => {
    const driver = await CoreDriver.create({ maxStepsInFlight: 2 });
    const ids = driver.add({ maxTokens: 6 }, { maxTokens: 6, stopTokenIds: [42] }, { maxTokens: 6 });
    driver.run(({ request, output }) => (request === ids[1] && output === 2 ? 42 : 100 * request + output));
    expect(ids.map((id) => driver.tokensOf(id))).toEqual(
      ids.map((id) => {
        const own = Array.from({ length: 6 }, (_, i) => 100 * id + i);
        return id === ids[1] ? [own[0], own[1], 42] : own;
      }),
    );
  });

  it('gives the same tokens to everyone with one step in flight and with two', async () => {
    const outputs = [];
    for (const maxStepsInFlight of [1, 2]) {
      const driver = await CoreDriver.create({ maxStepsInFlight, numBlocks: 12, maxNumSeqs: 4 });
      driver.add({ n: 3, maxTokens: 20 }, { promptTokenIds: promptOf(40), maxTokens: 30 }, { n: 2 });
      driver.run(({ request, sample, output }) => 10 + ((request * 7 + sample * 5 + output * 3) % 900));
      outputs.push([...driver.outputs].sort());
    }
    expect(outputs[1]).toEqual(outputs[0]);
  });

  it('stamps each output with the weight version that its step was planned under', async () => {
    const driver = await CoreDriver.create({ maxStepsInFlight: 2 });
    driver.add({});
    driver.schedule();
    driver.apply({ type: 'pauseGeneration', mode: 'keep' });
    driver.apply({ type: 'beginWeightUpdate' });
    driver.apply({ type: 'finishWeightUpdate', version: 9 });
    expect(driver.commit()).toMatchObject({ step: 1, weightVersion: 0 });
    driver.control();
    driver.control();
    driver.apply({ type: 'resumeGeneration' });
    const { plan, output } = driver.step();
    expect([plan.weightVersion, output.weightVersion]).toEqual([9, 9]);
  });
});

describe('where samples end', () => {
  it('ends by length at the model length', async () => {
    const driver = await CoreDriver.create({ maxModelLen: 20 });
    const [id] = driver.add({ maxTokens: 100 });
    driver.run();
    expect(driver.tokensOf(id!)).toHaveLength(10);
    expect(driver.endOf(id!)).toBe('length');
  });

  it('ends by length when the sequence fills the whole pool', async () => {
    const driver = await CoreDriver.create({ numBlocks: 2 });
    const [id] = driver.add({ maxTokens: 100 });
    driver.run();
    expect(driver.tokensOf(id!)).toHaveLength(22);
    expect(driver.endOf(id!)).toBe('length');
  });

  it('prefers stop to length when the last token is a stop id', async () => {
    const driver = await CoreDriver.create();
    const [id] = driver.add({ maxTokens: 2, stopTokenIds: [42] });
    driver.run(({ output }) => 41 + output);
    expect(driver.endOf(id!)).toBe('stop 42');
  });

  it('scores a prompt and samples nothing with max_tokens 0', async () => {
    const driver = await CoreDriver.create({ longPrefillTokenThreshold: 16 });
    const promptTokenIds = promptOf(40);
    const [id] = driver.add({ promptTokenIds, maxTokens: 0, promptLogprobs: 2 });
    const scores = [];
    const planned = [];
    for (let step = 0; step < 3; step++) {
      const { plan, output } = driver.step();
      expect(plan.samples).toEqual([]);
      planned.push(...plan.scores.map(({ tokenId }) => tokenId));
      scores.push(...output.scores);
    }
    expect(planned).toEqual(promptTokenIds.slice(1));
    expect(scores.map(({ position, first, count }) => [position, first, count])).toEqual([
      [1, 0, 16],
      [17, 0, 16],
      [33, 0, 7],
    ]);
    expect(driver.endOf(id!)).toBe('length');
    expect(driver.tokensOf(id!)).toEqual([]);
    expect(driver.core.stats()).toMatchObject({ numRequests: 0, numHeldBlocks: 0 });
  });

  it('scores a prompt of one token without a score', async () => {
    const driver = await CoreDriver.create();
    const [id] = driver.add({ promptTokenIds: [7], maxTokens: 0, promptLogprobs: 0 });
    expect(driver.run().flatMap(({ plan }) => plan.scores)).toEqual([]);
    expect(driver.endOf(id!)).toBe('length');
  });
});
