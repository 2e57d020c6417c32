// Every code that a request can be refused with, with the value and the limit that its sentence will name; and commands and
// configurations that are refused. A refused request ends at once, alone; the others of its command go on.
import { describe, expect, it } from 'vitest';
import { CoreDriver, defaults, promptOf, type RequestDraft } from '../support/core_driver.js';
import { Core } from '../support/core_types.js';

/** A float's bits: how the core, which does no arithmetic on floats, names it. */
const bits = (value: number) => new Uint32Array(new Float32Array([value]).buffer)[0]!;

const cases: [name: string, draft: RequestDraft, code: string, value?: number, limit?: number][] = [
  ['an empty prompt', { promptTokenIds: [] }, 'prompt_empty'],
  [
    'a token at the end of the vocabulary',
    { promptTokenIds: [5, 1000] },
    'prompt_token_out_of_range',
    1000,
    999,
  ],
  ['a negative token', { promptTokenIds: [-3] }, 'prompt_token_out_of_range', -3, 999],
  ['a prompt as long as the model', { promptTokenIds: promptOf(200) }, 'prompt_too_long', 200, 199],
  [
    'a prompt longer than the model, only scored',
    { promptTokenIds: promptOf(201), maxTokens: 0, promptLogprobs: 0 },
    'prompt_too_long',
    201,
    200,
  ],
  ['a prompt as long as the pool', { promptTokenIds: promptOf(160) }, 'prompt_exceeds_kv_cache', 160, 159],
  ['n of 0', { n: 0 }, 'invalid_n', 0, 64],
  ['n of a thousand million', { n: 1_000_000_000 }, 'invalid_n', 1_000_000_000, 64],
  ['two samples of no token', { n: 2, maxTokens: 0, promptLogprobs: 0 }, 'invalid_n', 2, 1],
  ['a temperature below 0', { temperature: -1 }, 'invalid_temperature', bits(-1)],
  ['a temperature of NaN', { temperature: Number.NaN }, 'invalid_temperature', bits(Number.NaN)],
  ['an infinite temperature', { temperature: 1e39 }, 'invalid_temperature', bits(1e39)],
  ['top_p of 0', { topP: 0 }, 'invalid_top_p', 0],
  ['top_p above 1', { topP: 1.01 }, 'invalid_top_p', bits(1.01)],
  ['top_p of NaN', { topP: Number.NaN }, 'invalid_top_p', bits(Number.NaN)],
  ['top_k beyond 31 bits', { topK: 2 ** 31 }, 'invalid_top_k', 2 ** 31],
  ['min_p above 1', { minP: 1.5 }, 'invalid_min_p', bits(1.5)],
  ['min_p below 0', { minP: -0.1 }, 'invalid_min_p', bits(-0.1)],
  ['a repetition penalty of 0', { repetitionPenalty: 0 }, 'invalid_repetition_penalty', 0],
  ['a presence penalty below -2', { presencePenalty: -2.5 }, 'invalid_presence_penalty', bits(-2.5)],
  ['a frequency penalty above 2', { frequencyPenalty: 2.5 }, 'invalid_frequency_penalty', bits(2.5)],
  ['no token and no score', { maxTokens: 0 }, 'invalid_max_tokens', 0],
  ['min_tokens above max_tokens', { minTokens: 5, maxTokens: 4 }, 'invalid_min_tokens', 5, 4],
  ['too many log-probs', { logprobs: 21 }, 'invalid_logprobs', 21, 20],
  ['log-probs of -2', { logprobs: -2 }, 'invalid_logprobs', -2, 20],
  ['too many prompt log-probs', { promptLogprobs: 21 }, 'invalid_prompt_logprobs', 21, 20],
  ['a stop id outside of the vocabulary', { stopTokenIds: [3, 1000] }, 'invalid_stop_token_ids', 1000, 999],
  ['65 stop ids', { stopTokenIds: promptOf(65) }, 'invalid_stop_token_ids', 65, 64],
  ['a bias outside of the vocabulary', { logitBias: { 1000: 1 } }, 'invalid_logit_bias', 1000, 999],
  ['a bias of NaN', { logitBias: { 7: Number.NaN } }, 'invalid_logit_bias', 7, 999],
  ['a bias of +infinity', { logitBias: { 7: Number.POSITIVE_INFINITY } }, 'invalid_logit_bias', 7, 999],
  ['an adapter that is not loaded', { adapter: 4 }, 'unknown_adapter', 4],
];

const small = { maxModelLen: 200, numBlocks: 10 };

describe('a request is refused', () => {
  it.each(cases)('for %s', async (_name, draft, code, value, limit) => {
    const driver = await CoreDriver.create(small);
    const refusal = driver.addRefused(draft);
    expect(refusal).toMatchObject({ sample: 0, count: draft.n ?? 1, reason: 'error', code });
    if (value !== undefined) expect(Number(refusal.value)).toBe(value);
    if (limit !== undefined) expect(refusal.limit).toBe(limit);
    expect(driver.core.stats()).toMatchObject({ numRequests: 0, tokenHeapUsedBytes: 0 });
    expect(driver.schedule()).toBeNull();
  });

  it('for an id that is in use, and the first one goes on', async () => {
    const driver = await CoreDriver.create();
    driver.add({ id: 7, maxTokens: 1 });
    expect(driver.addRefused({ id: 7 })).toMatchObject({ code: 'request_id_in_use', value: 7 });
    expect(driver.run()).toHaveLength(1);
  });

  it('when all places are taken, until one is free', async () => {
    const driver = await CoreDriver.create({ maxNumRequests: 2 });
    driver.add({ maxTokens: 1 }, { maxTokens: 1 });
    expect(driver.addRefused({})).toMatchObject({ code: 'queue_full', value: 3, limit: 2 });
    driver.run();
    driver.add({});
  });

  it('when its tokens could never be held beside those of a sequence', async () => {
    const driver = await CoreDriver.create({ maxModelLen: 20_000, numBlocks: 2000, tokenHeapBytes: 65_536 });
    const refusal = driver.addRefused({ promptTokenIds: new Array(16_384).fill(5) });
    expect(refusal).toMatchObject({ code: 'out_of_token_memory', limit: 65_536 });
    expect(driver.run()).toEqual([]);
  });

  it('when the memory for tokens is used up by those that wait', async () => {
    const driver = await CoreDriver.create({ maxModelLen: 20_000, numBlocks: 2000, tokenHeapBytes: 65_536 });
    const promptTokenIds = new Array(4_000).fill(5);
    driver.add(...new Array(4).fill({ promptTokenIds, maxTokens: 1 }));
    expect(driver.addRefused({ promptTokenIds }).code).toBe('queue_full');
    driver.run();
    expect(driver.core.stats()).toMatchObject({ numRequests: 0, tokenHeapUsedBytes: 0 });
  });

  it('alone: the others of its command are run', async () => {
    const driver = await CoreDriver.create();
    const [first, bad, last] = driver.add({ maxTokens: 1 }, { temperature: -1 }, { maxTokens: 1 });
    driver.run();
    expect([first, bad, last].map((id) => driver.endOf(id!))).toEqual([
      'length',
      'error invalid_temperature',
      'length',
    ]);
  });

  it('not for what is just allowed', async () => {
    const driver = await CoreDriver.create(small);
    const ids = driver.add(
      { promptTokenIds: promptOf(159), maxTokens: 1 },
      { promptTokenIds: promptOf(160), maxTokens: 0, promptLogprobs: 0 },
      { temperature: 0, topP: 1, topK: 2 ** 31 - 1, minP: 1, minTokens: 1, maxTokens: 1, n: 64 },
      { temperature: -0, presencePenalty: 2, frequencyPenalty: -2, repetitionPenalty: 1e-3, maxTokens: 1 },
      { logprobs: 20, promptLogprobs: 20, stopTokenIds: promptOf(64), maxTokens: 1 },
      { logitBias: { 0: Number.NEGATIVE_INFINITY, 999: 3 }, maxTokens: 1 },
    );
    driver.run();
    expect(ids.map((id) => driver.endOf(id))).toEqual(new Array(6).fill('length'));
  });
});

describe('a configuration is refused', () => {
  it.each([
    ['a block size that is no power of two', { blockSize: 12 }],
    ['no block', { numBlocks: 0 }],
    ['no sequence', { maxNumSeqs: 0 }],
    ['no budget', { maxNumBatchedTokens: 0 }],
    ['three steps in flight', { maxStepsInFlight: 3 }],
    ['no vocabulary', { vocabSize: 0 }],
    ['more sequences than can be addressed', { maxNumSeqs: 2 ** 31 }],
    ['more blocks than memory', { numBlocks: 2 ** 32 - 1, blockSize: 1024 }],
  ])('for %s', async (_name, wrong) => {
    await expect(Core.create({ ...defaults, ...wrong })).rejects.toMatchObject({ code: 'invalid_config' });
  });
});
