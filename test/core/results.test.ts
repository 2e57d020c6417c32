// What a host may answer wrongly, and what becomes of it: failed steps, failed rows, and results that do not fit.
import { describe, expect, it } from 'vitest';
import { CoreDriver, promptOf } from '../support/core_driver.js';

describe('a step that fails', () => {
  it('ends the sequences of the step with its code, and the others go on', async () => {
    const driver = await CoreDriver.create({ maxNumSeqs: 2 });
    const ids = driver.add({}, {}, { maxTokens: 1 });
    driver.schedule();
    const output = driver.failStep();
    expect(output.finishes.map(({ request, reason, code }) => [request, reason, code])).toEqual([
      [ids[0], 'error', 'step_failed'],
      [ids[1], 'error', 'step_failed'],
    ]);
    expect(driver.core.stats()).toMatchObject({ numRequests: 1, numHeldBlocks: 0 });
    driver.run();
    expect(driver.endOf(ids[2]!)).toBe('length');
  });

  it('drops what the step behind it computes for the same sequences, and frees them then', async () => {
    const driver = await CoreDriver.create({ maxStepsInFlight: 2 });
    const [id] = driver.add({});
    driver.schedule();
    driver.schedule();
    driver.failStep();
    expect(driver.core.stats()).toMatchObject({ numRequests: 0, numHeldBlocks: 1 });
    expect(driver.commit()).toMatchObject({ tokens: [], finishes: [] });
    expect(driver.core.stats().numHeldBlocks).toBe(0);
    expect(driver.endOf(id!)).toBe('error step_failed');
  });

  it('ends a sequence that has been preempted since', async () => {
    const driver = await CoreDriver.create({ maxStepsInFlight: 2 });
    const [id] = driver.add({});
    driver.schedule();
    driver.apply({ type: 'resetPrefixCache', force: true });
    driver.failStep();
    expect(driver.endOf(id!)).toBe('error step_failed');
    expect(driver.run()).toEqual([]);
  });

  it('sends followers that have not been fanned out back to their request, which goes on', async () => {
    const driver = await CoreDriver.create({ longPrefillTokenThreshold: 16 });
    const [id] = driver.add({ promptTokenIds: promptOf(40), n: 3, maxTokens: 1 });
    driver.schedule();
    driver.failStep();
    expect([driver.running, driver.waiting]).toEqual([0, 2]);
    driver.run();
    expect([0, 1, 2].map((sample) => driver.endOf(id!, sample))).toEqual([
      'error step_failed',
      'length',
      'length',
    ]);
  });

  it('ends samples that the step behind it fanned out from a prompt that it helped to compute', async () => {
    const driver = await CoreDriver.create({ longPrefillTokenThreshold: 16, maxStepsInFlight: 2 });
    const [id, other] = driver.add({ promptTokenIds: promptOf(32), n: 3 }, { maxTokens: 3 });
    driver.schedule();
    expect(driver.schedule()!.sampled.map(({ sample }) => sample)).toEqual([0, 1, 2, 0]);
    driver.failStep();
    expect([0, 1, 2].map((sample) => driver.endOf(id!, sample))).toEqual(
      new Array(3).fill('error step_failed'),
    );
    expect(driver.endOf(other!)).toBe('error step_failed');
    expect(driver.commit().tokens).toEqual([]);
    expect(driver.core.stats()).toMatchObject({ numRequests: 0, numHeldBlocks: 0 });
  });

  it('keeps samples that the step behind it fanned out from a prompt of its own', async () => {
    const driver = await CoreDriver.create({ maxStepsInFlight: 2 });
    driver.add({});
    driver.schedule();
    const [id] = driver.add({ n: 3, maxTokens: 1 });
    driver.schedule();
    driver.failStep();
    driver.commit();
    expect([0, 1, 2].map((sample) => driver.endOf(id!, sample))).toEqual(['length', 'length', 'length']);
  });
});

describe('a row that fails', () => {
  it('ends its sample alone', async () => {
    const driver = await CoreDriver.create();
    const [id, other] = driver.add({ n: 3, maxTokens: 2 }, { maxTokens: 2 });
    driver.schedule();
    const result = driver.result(() => 60);
    driver.commitResult({
      ...result,
      tokenIds: [60, -1, 60, 60],
      rowCodes: ['none', 'nan_logits', 'none', 'none'],
    });
    driver.run();
    expect([0, 1, 2].map((sample) => driver.endOf(id!, sample))).toEqual([
      'length',
      'error nan_logits',
      'length',
    ]);
    expect(driver.tokensOf(id!, 1)).toEqual([]);
    expect(driver.endOf(other!)).toBe('length');
  });

  it('leaves nothing in the prefix cache of what the step computed for it', async () => {
    const driver = await CoreDriver.create();
    const promptTokenIds = promptOf(40);
    driver.add({ promptTokenIds });
    driver.schedule();
    driver.commitResult({ ...driver.result(), tokenIds: [-1], rowCodes: ['nan_logits'] });
    const [id] = driver.add({ promptTokenIds });
    driver.step();
    expect(driver.cachedTokensOf(id!)).toBe(0);
  });

  it('with a token outside of the vocabulary ends its sample with the token and the limit', async () => {
    for (const tokenId of [1000, -1, 2 ** 31 - 1]) {
      const driver = await CoreDriver.create();
      const [id] = driver.add({ maxTokens: 1 }, { maxTokens: 1 });
      driver.schedule();
      const { finishes, tokens } = driver.commit(({ request }) => (request === id ? tokenId : 5));
      expect(finishes[0]).toMatchObject({ code: 'token_out_of_range', value: tokenId, limit: 999 });
      expect(tokens).toHaveLength(1);
    }
  });
});

describe('memory for tokens', () => {
  it('that is used up ends the sample whose token finds none, and the others go on', async () => {
    const driver = await CoreDriver.create({
      maxModelLen: 20_000,
      numBlocks: 20,
      blockSize: 1024,
      maxNumSeqs: 4,
      tokenHeapBytes: 65_536,
    });
    const ids = driver.add({ maxTokens: 1_500 }, { maxTokens: 9_000 }, { maxTokens: 1_500 });
    driver.run();
    expect(ids.map((id) => driver.endOf(id))).toEqual(['length', 'error out_of_token_memory', 'length']);
    expect(driver.tokensOf(ids[1]!).length).toBeGreaterThan(3_000);
    expect(driver.core.stats()).toMatchObject({ tokenHeapUsedBytes: 0, numHeldBlocks: 0 });
  });
});

describe('a result that does not fit', () => {
  const codes = (output: { acks: { code: string }[] }) => output.acks.map(({ code }) => code);

  it('is refused when nothing is in flight', async () => {
    const driver = await CoreDriver.create();
    expect(codes(driver.core.commit({ step: 1 }))).toEqual(['result_unexpected']);
  });

  it('is refused when it comes twice, and changes nothing', async () => {
    const driver = await CoreDriver.create({ maxStepsInFlight: 2 });
    const [id] = driver.add({ maxTokens: 3 });
    driver.schedule();
    driver.schedule();
    const result = driver.result(() => 60);
    driver.commitResult(result);
    const before = driver.core.stats();
    const again = driver.core.commit(result);
    expect([codes(again), again.tokens]).toEqual([['result_unexpected'], []]);
    expect(driver.core.stats()).toEqual(before);
    driver.run(() => 61);
    expect(driver.tokensOf(id!)).toEqual([60, 61, 61]);
  });

  it('is refused when it is of the younger of two steps', async () => {
    const driver = await CoreDriver.create({ maxStepsInFlight: 2 });
    driver.add({ maxTokens: 3 });
    driver.schedule();
    driver.schedule();
    expect(codes(driver.core.commit({ step: 2, tokenIds: [5] }))).toEqual(['result_unexpected']);
    expect(codes(driver.commit())).toEqual([]);
  });

  it.each([
    ['too few tokens', { tokenIds: [5] }],
    ['too many tokens', { tokenIds: [5, 5, 5] }],
    ['too few row codes', { rowCodes: ['none' as const] }],
    ['too few scores', { scoreLogprobs: [0] }],
    ['too many scores', { scoreLogprobs: new Array(12).fill(0) }],
  ])('is refused with %s, and the right one is taken afterwards', async (_name, wrong) => {
    const driver = await CoreDriver.create();
    driver.add({ promptLogprobs: 0, maxTokens: 1 }, { maxTokens: 1 });
    driver.schedule();
    const before = driver.core.stats();
    expect(codes(driver.core.commit({ ...driver.result(), ...wrong }))).toEqual(['result_malformed']);
    expect(driver.core.stats()).toEqual(before);
    expect(driver.commit().finishes).toHaveLength(2);
  });
});
