// Faults that engines of this kind have had, each with its name. What the core does instead is said in the test.
import { describe, expect, it } from 'vitest';
import { CoreDriver, promptOf } from '../support/core_driver.js';

describe('faults with a precedent', () => {
  it('abort with a step in flight (double free): the blocks come back once, when the last step is committed', async () => {
    const driver = await CoreDriver.create({ maxStepsInFlight: 2, numBlocks: 8 });
    const [id] = driver.add({ promptTokenIds: promptOf(40), n: 2 });
    driver.schedule();
    driver.schedule();
    driver.apply({ type: 'abortRequests', requestIds: [id!, id!] });
    driver.apply({ type: 'abortRequests', all: true });
    const held = [driver.core.stats().numHeldBlocks];
    driver.commit();
    held.push(driver.core.stats().numHeldBlocks);
    driver.commit();
    held.push(driver.core.stats().numHeldBlocks);
    expect(held).toEqual([4, 4, 0]);
    expect(driver.finishes).toHaveLength(2);
  });

  it('a late result after preemption (counter underflow): its token counts once, and its row is not taken for a new one', async () => {
    const driver = await CoreDriver.create({ maxStepsInFlight: 2 });
    const [id] = driver.add({ maxTokens: 3 });
    driver.schedule();
    driver.schedule();
    driver.apply({ type: 'resetPrefixCache', force: true });
    driver.commit(() => 60);
    expect(driver.schedule()).toBeNull();
    driver.commit(() => 61);
    expect(driver.step(() => 62).computed).toMatchObject([{ start: 0, numTokens: 12 }]);
    expect(driver.tokensOf(id!)).toEqual([60, 61, 62]);
    expect(driver.endOf(id!)).toBe('length');
  });

  it('pause and cache reset in flight (first token after resume lost): every token is delivered', async () => {
    const driver = await CoreDriver.create({ maxStepsInFlight: 2 });
    const ids = driver.add({ maxTokens: 5 }, { maxTokens: 5, n: 2 });
    driver.schedule();
    driver.schedule();
    driver.apply({ type: 'pauseGeneration', mode: 'keep' });
    driver.apply({ type: 'resetPrefixCache', force: true });
    driver.commit(({ output }) => 60 + output);
    driver.commit(({ output }) => 60 + output);
    driver.apply({ type: 'resumeGeneration' });
    driver.run(({ output }) => 60 + output);
    for (const tokens of [
      driver.tokensOf(ids[0]!),
      driver.tokensOf(ids[1]!, 0),
      driver.tokensOf(ids[1]!, 1),
    ]) {
      expect(tokens).toEqual([60, 61, 62, 63, 64]);
    }
  });

  it('a request admitted while paused: it waits for resume, in every mode', async () => {
    for (const mode of ['abort', 'wait', 'keep', 'retract'] as const) {
      const driver = await CoreDriver.create();
      driver.apply({ type: 'pauseGeneration', mode });
      const [id] = driver.add({ maxTokens: 1 });
      expect(driver.schedule()).toBeNull();
      expect([driver.running, driver.waiting]).toEqual([0, 1]);
      driver.apply({ type: 'resumeGeneration' });
      driver.run();
      expect(driver.endOf(id!)).toBe('length');
    }
  });

  it('a request that can never fit at the head of the queue: it is refused on arrival, so the head always fits', async () => {
    const driver = await CoreDriver.create({ numBlocks: 4 });
    driver.addRefused({ promptTokenIds: promptOf(64), priority: -9 });
    const [largest, small] = driver.add(
      { promptTokenIds: promptOf(63), priority: -9, maxTokens: 50 },
      { maxTokens: 1 },
    );
    driver.run();
    expect([driver.endOf(largest!), driver.endOf(small!)]).toEqual(['length', 'length']);
    expect(driver.tokensOf(largest!)).toHaveLength(1);
  });

  it('index skew after preemption (request skipped silently): each of those that stay is computed in every step', async () => {
    const driver = await CoreDriver.create({ numBlocks: 6 });
    const ids = driver.add(
      ...[1, 2, 3, 4, 5].map((salt) => ({ promptTokenIds: promptOf(15, salt), maxTokens: 12 })),
    );
    driver.step();
    driver.step();
    // The first needs a sixth block, the second one that only a preemption gives; the third and fourth follow.
    const rounds = [1, 2, 3].map(() => driver.step().computed.map(({ request }) => request));
    expect(rounds).toEqual([ids.slice(0, 3), ids.slice(0, 3), ids.slice(0, 3)]);
    driver.run();
    expect(ids.map((id) => driver.tokensOf(id).length)).toEqual([12, 12, 12, 12, 12]);
  });

  it('stale weights with no error: an update that failed stops generation, and says so', async () => {
    const driver = await CoreDriver.create();
    driver.add({});
    driver.step();
    driver.apply({ type: 'pauseGeneration', mode: 'keep' });
    driver.apply({ type: 'beginWeightUpdate' });
    driver.control();
    driver.apply({ type: 'finishWeightUpdate', version: 1 });
    expect(driver.control('step_failed').acks).toMatchObject([{ code: 'step_failed' }]);
    expect(driver.ackOf({ type: 'resumeGeneration' })).toBe('weights_unavailable');
    expect(driver.schedule()).toBeNull();
    expect(driver.core.stats()).toMatchObject({ weightsUsable: false, weightVersion: 0 });
  });

  it('a failed part kills the engine instead of one request: a bad row, a bad step and a bad result leave the others alone', async () => {
    const driver = await CoreDriver.create();
    const [first, second, third] = driver.add(
      { maxTokens: 3 },
      { maxTokens: 3 },
      { maxTokens: 3, priority: 1 },
    );
    driver.schedule();
    driver.commitResult({
      ...driver.result(),
      tokenIds: [-1, 5, 5],
      rowCodes: ['nan_logits', 'none', 'none'],
    });
    driver.core.commit({ step: 77 });
    driver.apply({ type: 'abortRequests', requestIds: [second!] });
    driver.run();
    expect([first, second, third].map((id) => driver.endOf(id!))).toEqual([
      'error nan_logits',
      'abort',
      'length',
    ]);
  });

  it('duplicate results: the second is refused', async () => {
    const driver = await CoreDriver.create();
    const [id] = driver.add({ maxTokens: 2 });
    driver.schedule();
    const result = driver.result();
    driver.commitResult(result);
    expect(driver.core.commit(result).acks).toMatchObject([{ code: 'result_unexpected' }]);
    driver.run();
    expect(driver.tokensOf(id!)).toHaveLength(2);
  });

  it('device step failure: the sequences of the step end with a code, the pool is whole, the next request runs', async () => {
    const driver = await CoreDriver.create({ maxStepsInFlight: 2, numBlocks: 4 });
    driver.add({ n: 2 }, { promptTokenIds: promptOf(20) });
    driver.schedule();
    driver.schedule();
    driver.failStep();
    driver.failStep();
    expect(driver.core.stats()).toMatchObject({ numRequests: 0, numHeldBlocks: 0, numFreeBlocks: 4 });
    const [id] = driver.add({ maxTokens: 1 });
    driver.run();
    expect(driver.endOf(id!)).toBe('length');
  });

  // Found by the simulator: such a request went on, and ended by `length` with prompt log-probs missing.
  it('device step failure while prompt log-probs are computed: the request ends, though its leader was preempted since', async () => {
    for (const mode of ['retract', null] as const) {
      const driver = await CoreDriver.create({ maxNumBatchedTokens: 4, maxStepsInFlight: 2 });
      const [id] = driver.add({ promptTokenIds: promptOf(6), maxTokens: 2, promptLogprobs: 0, n: 2 });
      driver.schedule();
      if (mode !== null) driver.apply({ type: 'pauseGeneration', mode });
      else driver.schedule();
      driver.failStep();
      expect(driver.endOf(id!)).toBe('error step_failed');
      if (mode !== null) driver.apply({ type: 'resumeGeneration' });
      driver.run();
      expect(driver.finishes.reduce((sum, { count }) => sum + count, 0)).toBe(2);
      expect(driver.core.stats()).toMatchObject({ numRequests: 0, numHeldBlocks: 0 });
    }
  });
});

describe('liveness', () => {
  it('always has something to do while requests are live and nothing is paused, released or in flight', async () => {
    const driver = await CoreDriver.create({
      numBlocks: 3,
      maxNumSeqs: 3,
      maxNumBatchedTokens: 7,
      maxModelLen: 48,
    });
    const drafts = Array.from({ length: 12 }, (_, i) => ({
      promptTokenIds: promptOf(1 + ((i * 11) % 40), i),
      n: 1 + (i % 4),
      maxTokens: 1 + ((i * 7) % 30),
      priority: i % 3,
    }));
    const ids = driver.add(...drafts);
    for (let steps = 0; driver.core.stats().numRequests > 0; steps++) {
      expect(
        driver.schedule(),
        `a step with ${driver.core.stats().numRequests} requests live`,
      ).not.toBeNull();
      driver.commit();
      expect(steps).toBeLessThan(5_000);
    }
    for (const [i, id] of ids.entries()) {
      for (let sample = 0; sample < drafts[i]!.n; sample++) expect(driver.endOf(id, sample)).toBe('length');
    }
  });
});
