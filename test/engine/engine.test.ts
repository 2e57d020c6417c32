import { describe, expect, it } from 'vitest';
import { deriveSeed, type GenerateRequest } from '../../dist/index.js';
import {
  createEngine,
  expectedTokens,
  ids,
  lastVocabSize,
  prompt,
  useFakeEngines,
} from '../support/fake_engine.js';
import { fakeLogprob } from '../support/fake_host.mjs';

useFakeEngines();

describe('generate', () => {
  it('gives results in the order of the requests, each with its samples in order', async () => {
    const engine = await createEngine({ seed: 5 });
    const requests = [3, 1, 7].map((length, index) => ({
      id: `r${index}`,
      promptTokenIds: prompt(length),
      n: 2,
      maxTokens: 4 + index,
      ignoreEos: true,
    }));
    const results = await engine.generate(requests);
    expect(results.map(({ id }) => id)).toEqual(['r0', 'r1', 'r2']);
    for (const [index, result] of results.entries()) {
      const { length } = requests[index]!.promptTokenIds;
      const expected = [0, 1].map((sample) =>
        expectedTokens(deriveSeed(5, index), sample, { from: length, count: 4 + index }),
      );
      expect(ids(result)).toEqual(expected);
      expect(result.samples[1]!.logprobs).toEqual(
        Float32Array.from({ length: 4 + index }, (_, k) => fakeLogprob(length + k)),
      );
      expect(result.samples[0]!.weightVersions).toEqual(new Int32Array(4 + index));
      expect(result.samples[0]!.finishReason).toBe('length');
    }
  });

  it('repeats a run exactly from the seed of the engine, and differs with another', async () => {
    const requests = Array.from({ length: 5 }, () => ({
      promptTokenIds: prompt(4),
      maxTokens: 8,
      ignoreEos: true,
    }));
    const runs = [];
    for (const seed of [1, 1, 2])
      runs.push((await (await createEngine({ seed })).generate(requests)).map(ids));
    expect(runs[1]).toEqual(runs[0]);
    expect(runs[2]).not.toEqual(runs[0]);
    expect(new Set(runs[0]!.map(String)).size).toBe(5);
  });

  it('refuses a bad request alone: the others of its list go on', async () => {
    const engine = await createEngine();
    const bad = [
      [{ promptTokenIds: [] }, 'prompt_empty'],
      [{ promptTokenIds: [1_000_000] }, 'prompt_token_out_of_range'],
      [{ promptTokenIds: [1.5] }, 'prompt_token_out_of_range'],
      [{ promptTokenIds: prompt(65) }, 'prompt_too_long'],
      [{ promptTokenIds: [1], n: 0 }, 'invalid_n'],
      [{ promptTokenIds: [1], n: 1e9 }, 'invalid_n'],
      [{ promptTokenIds: [1], n: 1.5 }, 'invalid_n'],
      [{ promptTokenIds: [1], temperature: -1 }, 'invalid_temperature'],
      [{ promptTokenIds: [1], temperature: Number.NaN }, 'invalid_temperature'],
      [{ promptTokenIds: [1], temperature: 'warm' }, 'invalid_temperature'],
      [{ promptTokenIds: [1], topP: 0 }, 'invalid_top_p'],
      [{ promptTokenIds: [1], minP: 2 }, 'invalid_min_p'],
      [{ promptTokenIds: [1], repetitionPenalty: 0 }, 'invalid_repetition_penalty'],
      [{ promptTokenIds: [1], maxTokens: 0 }, 'invalid_max_tokens'],
      [{ promptTokenIds: [1], minTokens: 99 }, 'invalid_min_tokens'],
      [{ promptTokenIds: [1], logprobs: 1000 }, 'invalid_logprobs'],
      [{ promptTokenIds: [1], stopTokenIds: [-1] }, 'invalid_stop_token_ids'],
      [{ promptTokenIds: [1], logitBias: { 1: Number.NaN } }, 'invalid_logit_bias'],
      [{ promptTokenIds: [1], logitBias: { x: 1 } }, 'invalid_logit_bias'],
      [{ promptTokenIds: [1], adapter: 3 }, 'unknown_adapter'],
      [{ promptTokenIds: [1], seed: -1 }, 'invalid_argument'],
      [{ promptTokenIds: [1], prompt: 'x' }, 'invalid_argument'],
      [{ promptTokenIds: [1], temperatur: 1 }, 'unknown_option'],
      [{ prompt: 'no tokenizer here' }, 'tokenizer_missing'],
      [{}, 'invalid_argument'],
    ] as const;
    const good = { promptTokenIds: [1, 2], maxTokens: 3, ignoreEos: true };
    const requests = bad.flatMap(([request]) => [request, good]);
    const results = await engine.generate(requests as GenerateRequest[]);
    expect(results.filter((_, index) => index % 2 === 0).map(({ error }) => error?.code)).toEqual(
      bad.map(([, code]) => code),
    );
    for (const [index, result] of results.entries()) {
      if (index % 2 === 0) expect(result.error!.message).toMatch(/\.$/);
      else expect(ids(result)[0]).toHaveLength(3);
    }
  });

  it('names the value and the limit in the sentence of a refusal', async () => {
    const engine = await createEngine({ kvCacheBlocks: 2 });
    const refusals = [
      [{ promptTokenIds: [1], temperature: Number.NaN }, 'temperature is NaN'],
      [{ promptTokenIds: [1], n: 1e9 }, 'n is 1000000000; it must be from 1 to 1024'],
      [
        { promptTokenIds: [1, 5000] },
        `token id 5000; the model's vocabulary has the ids 0 to ${lastVocabSize() - 1}`,
      ],
      [{ promptTokenIds: prompt(40) }, 'The prompt has 40 tokens; the whole KV cache holds at most 31'],
    ] as const;
    for (const [request, words] of refusals) {
      await expect(engine.generate(request)).rejects.toThrowError(words);
    }
  });

  it('throws the error of a single request', async () => {
    const engine = await createEngine();
    await expect(engine.generate({ promptTokenIds: [] })).rejects.toMatchObject({ code: 'prompt_empty' });
  });

  it('feeds more requests than the scheduler holds, by priority', async () => {
    const engine = await createEngine({ maxNumRequests: 2, maxNumSeqs: 1 });
    const ended: number[] = [];
    const priorities = [5, 5, 5, 1, 3, 2];
    await Promise.all(
      priorities.map(async (priority, index) => {
        await engine.generate({ promptTokenIds: [1, 2], maxTokens: 4, ignoreEos: true, priority });
        ended.push(index);
      }),
    );
    // All six come in one turn, so the scheduler is handed the two most urgent ones first.
    expect(ended).toEqual([3, 5, 4, 0, 1, 2]);
  });

  it('lets the main thread turn while it generates', async () => {
    const engine = await createEngine();
    let turns = 0;
    let over = false;
    const spin = () => {
      turns += 1;
      if (!over) setImmediate(spin);
    };
    setImmediate(spin);
    const requests = Array.from({ length: 40 }, () => ({
      promptTokenIds: prompt(8),
      maxTokens: 50,
      ignoreEos: true,
    }));
    await engine.generate(requests);
    over = true;
    // At the very least one turn for each of the 50 steps' outputs.
    expect(turns).toBeGreaterThan(50);
  });

  it('ends with reason abort and what there is when the signal fires', async () => {
    const engine = await createEngine();
    const controller = new AbortController();
    const requests = Array.from({ length: 3 }, () => ({
      promptTokenIds: [1, 2],
      n: 2,
      maxTokens: 60,
      ignoreEos: true,
    }));
    await engine.pause('keep');
    const call = engine.generate(requests, { signal: controller.signal });
    controller.abort();
    await engine.resume();
    for (const result of await call) {
      expect(result.error).toBeUndefined();
      expect(result.samples.map(({ finishReason }) => finishReason)).toEqual(['abort', 'abort']);
    }
    const late = await engine.generate(requests[0]!, { signal: controller.signal });
    expect(late.samples[0]).toMatchObject({ finishReason: 'abort', tokenIds: new Int32Array(0) });
  });

  it('aborts by the id that the caller gave, and passes over ids that are not known', async () => {
    const engine = await createEngine();
    await engine.pause('keep');
    const calls = ['a', 'b'].map((id) =>
      engine.generate({ id, promptTokenIds: [1], maxTokens: 5, ignoreEos: true }),
    );
    engine.abort(['a', 'never heard of']);
    await engine.resume();
    const [a, b] = await Promise.all(calls);
    expect([a!.samples[0]!.finishReason, b!.samples[0]!.finishReason]).toEqual(['abort', 'length']);
  });
});

describe('stream', () => {
  it('gives deltas that add up to what generate gives', async () => {
    const engine = await createEngine();
    const request = { promptTokenIds: prompt(5), n: 3, seed: 77, maxTokens: 20, ignoreEos: true };
    const whole = await engine.generate(request);
    const tokens: number[][] = [[], [], []];
    const logprobs: number[][] = [[], [], []];
    const ends: string[] = [];
    for await (const delta of engine.stream(request)) {
      tokens[delta.sample]!.push(...delta.tokenIds);
      logprobs[delta.sample]!.push(...delta.logprobs!);
      if (delta.finishReason !== undefined) ends.push(`${delta.sample} ${delta.finishReason}`);
    }
    expect(tokens).toEqual(ids(whole));
    expect(logprobs).toEqual(whole.samples.map((sample) => Array.from(sample.logprobs!)));
    expect(ends.sort()).toEqual(['0 length', '1 length', '2 length']);
  });

  it('aborts the request when its reader leaves the loop', async () => {
    const engine = await createEngine();
    for await (const delta of engine.stream({ promptTokenIds: [1], maxTokens: 60, ignoreEos: true })) {
      expect(delta.tokenIds.length).toBeGreaterThan(0);
      break;
    }
    // The abort was sent before this question, so its answer is after it.
    expect(await engine.stats()).toMatchObject({ numRequests: 0 });
  });

  it('throws what the request is refused for', async () => {
    const engine = await createEngine();
    const stream = engine.stream({ promptTokenIds: [1], n: 0 });
    await expect(stream.next()).rejects.toMatchObject({ code: 'invalid_n' });
  });
});

describe('score', () => {
  it('gives one log-prob a token, of one sequence or of many, with NaN for the first', async () => {
    const engine = await createEngine();
    const expected = (length: number) =>
      Float32Array.from({ length }, (_, k) => (k === 0 ? Number.NaN : fakeLogprob(k)));
    expect(await engine.score(prompt(6))).toEqual(expected(6));
    expect(await engine.score([prompt(3), prompt(1)])).toEqual([expected(3), expected(1)]);
    await expect(engine.score([[1_000_000]])).rejects.toMatchObject({ code: 'prompt_token_out_of_range' });
  });
});

describe('options', () => {
  it.each([
    [{ modle: 'x' }, 'unknown_option'],
    [{ device: 'tpu' }, 'unsupported_device'],
    [{ dtype: 'int4' }, 'invalid_argument'],
    [{ maxNumSeqs: 0 }, 'invalid_argument'],
    [{ maxModelLen: 1e9 }, 'invalid_argument'],
    [{ blockSize: 12 }, 'invalid_config'],
    [{ seed: 0.5 }, 'invalid_argument'],
    [{ model: '' }, 'invalid_argument'],
    [{ model: '/nowhere/at/all' }, 'model_not_found'],
  ])('refuses %o with a code', async (options, code) => {
    await expect(createEngine(options as never)).rejects.toMatchObject({ code });
  });
});
