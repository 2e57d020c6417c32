import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { deriveSeed, Engine, type EngineOptions, type GenerateRequest } from '../../dist/index.js';
import { fakeLogprob, fakeToken } from '../support/fake_host.mjs';
import { writeTinyModel } from '../support/tiny_model.js';

const HOST = new URL('../support/fake_host.mjs', import.meta.url).href;

let model = '';
let vocabSize = 0;
const engines: Engine[] = [];

beforeAll(async () => {
  model = await mkdtemp(join(tmpdir(), 'kadenz-engine-'));
  await writeTinyModel(model, {
    architecture: 'LlamaForCausalLM',
    seed: 1,
    maxPositionEmbeddings: 1_000_000,
  });
});

afterEach(async () => {
  for (const engine of engines.splice(0)) await engine.close();
});

afterAll(() => rm(model, { recursive: true }));

async function createEngine(options: Partial<EngineOptions> = {}, query = ''): Promise<Engine> {
  const engine = await Engine.create(
    { model, maxModelLen: 64, kvCacheBlocks: 256, ...options },
    HOST + query,
  );
  engines.push(engine);
  vocabSize = engine.info.vocabSize;
  return engine;
}

const prompt = (length: number, first = 1) => Array.from({ length }, (_, index) => (first + index) % 16);
const ids = (result: { samples: { tokenIds: Int32Array }[] }) =>
  result.samples.map(({ tokenIds }) => Array.from(tokenIds));

function expectedTokens(seed: bigint, sample: number, { from, count }: { from: number; count: number }) {
  return Array.from({ length: count }, (_, index) =>
    fakeToken({ seed, sample, position: from + index, vocabSize }),
  );
}

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
        `token id 5000; the model's vocabulary has the ids 0 to ${vocabSize - 1}`,
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

describe('pause', () => {
  const request = { promptTokenIds: [1, 2, 3], maxTokens: 40, ignoreEos: true, seed: 3 };

  it.each(['keep', 'retract'] as const)('%s: freezes, and goes on to the same samples', async (mode) => {
    const engine = await createEngine();
    const undisturbed = await engine.generate(request);
    const stream = engine.stream(request);
    const first = await stream.next();
    await engine.pause(mode);
    const before = await engine.stats();
    expect(before).toMatchObject({ paused: true, numStepsInFlight: 0, numRequests: 1 });
    expect(before.numHeldBlocks).toBe(mode === 'keep' ? before.numHeldBlocks : 0);
    const queued = engine.generate(request);
    expect((await engine.stats()).generationTokens).toBe(before.generationTokens);
    await engine.resume();
    const tokens = Array.from((first.value as { tokenIds: Int32Array }).tokenIds);
    for await (const delta of stream) tokens.push(...delta.tokenIds);
    expect([tokens]).toEqual(ids(undisturbed));
    expect(ids(await queued)).toEqual(ids(undisturbed));
  });

  it('wait: finishes what runs and what waits in the engine too, and later requests queue', async () => {
    const engine = await createEngine({ maxNumRequests: 2, maxNumSeqs: 2 });
    let numEarly = 0;
    const early = Array.from({ length: 6 }, () => engine.generate(request).then(() => (numEarly += 1)));
    const paused = engine.pause('wait');
    let lateEnded = false;
    const late = engine.generate(request).then(() => {
      lateEnded = true;
    });
    await paused;
    expect(numEarly).toBe(6);
    expect((await engine.stats()).paused).toBe(true);
    expect(lateEnded).toBe(false);
    await engine.resume();
    await Promise.all([...early, late]);
  });

  it('abort: ends everything, what waits in the engine too', async () => {
    const engine = await createEngine({ maxNumRequests: 2, maxNumSeqs: 2 });
    const calls = Array.from({ length: 6 }, () => engine.generate(request));
    await engine.pause('abort');
    const reasons = (await Promise.all(calls)).map(({ samples }) => samples[0]!.finishReason);
    expect(reasons).toEqual(new Array(6).fill('abort'));
  });
});

describe('the prefix cache', () => {
  it('is reported, reset, and not reset under running sequences unless forced', async () => {
    const engine = await createEngine({ maxModelLen: 1_000_000, kvCacheBlocks: 62_500 });
    const request = { promptTokenIds: prompt(40), maxTokens: 4, ignoreEos: true };
    expect((await engine.generate(request)).cachedTokens).toBe(0);
    expect((await engine.generate(request)).cachedTokens).toBe(32);
    await engine.resetPrefixCache();
    expect((await engine.generate(request)).cachedTokens).toBe(0);
    // So long that it still runs when the pause arrives, however slowly this thread comes to ask for it.
    const stream = engine.stream({ ...request, maxTokens: 900_000 });
    await stream.next();
    await engine.pause('keep');
    await expect(engine.resetPrefixCache()).rejects.toMatchObject({ code: 'requests_running' });
    await engine.resetPrefixCache({ force: true });
    expect(await engine.stats()).toMatchObject({ numRunning: 0, numWaiting: 1 });
    await engine.resume();
    expect((await stream.next()).done).toBe(false);
    await stream.return();
  });
});

describe('the end of an engine', () => {
  it.each(['?throwAtStep=5', '?exitAtStep=5'])(
    'fails every request with worker_died when the worker dies (%s)',
    async (query) => {
      const engine = await createEngine({ maxNumRequests: 2 }, query);
      const requests = Array.from({ length: 4 }, () => ({
        promptTokenIds: [1],
        maxTokens: 40,
        ignoreEos: true,
      }));
      const results = await engine.generate(requests);
      expect(results.map(({ error }) => error?.code)).toEqual(new Array(4).fill('worker_died'));
      // What had been sampled before the death is still there.
      expect(results[0]!.samples[0]!.tokenIds.length).toBe(4);
      await expect(engine.generate(requests)).rejects.toMatchObject({ code: 'worker_died' });
      await expect(engine.stats()).rejects.toMatchObject({ code: 'worker_died' });
      await engine.close();
    },
  );

  it('fails a stream and a control call when the worker dies', async () => {
    const engine = await createEngine({}, '?throwAtStep=3');
    const stream = engine.stream({ promptTokenIds: [1], maxTokens: 40, ignoreEos: true });
    const drain = async () => {
      for await (const _ of stream);
    };
    await expect(drain()).rejects.toMatchObject({ code: 'worker_died' });
    await expect(engine.pause('keep')).rejects.toMatchObject({ code: 'worker_died' });
  });

  it('ends requests with the code of a step that the host could not execute, and goes on', async () => {
    const engine = await createEngine({}, '?failAtStep=2');
    await expect(
      engine.generate({ promptTokenIds: [1], maxTokens: 9, ignoreEos: true }),
    ).rejects.toMatchObject({ code: 'step_failed' });
    expect(
      ids(await engine.generate({ promptTokenIds: [1], maxTokens: 9, ignoreEos: true }))[0],
    ).toHaveLength(9);
  });

  it('closes with requests running: they fail with engine_closed, and so does whatever is asked later', async () => {
    const engine = await createEngine();
    const call = engine.generate([{ promptTokenIds: [1], maxTokens: 60, ignoreEos: true }]);
    await engine.close();
    expect((await call)[0]!.error).toMatchObject({ code: 'engine_closed' });
    await expect(engine.generate({ promptTokenIds: [1] })).rejects.toMatchObject({ code: 'engine_closed' });
    expect(() => engine.stream({ promptTokenIds: [1] })).toThrowError(
      expect.objectContaining({ code: 'engine_closed' }),
    );
    await engine.close();
  });

  it('closes at the end of an await using block', async () => {
    const engine = await createEngine();
    await engine[Symbol.asyncDispose]();
    await expect(engine.stats()).rejects.toMatchObject({ code: 'engine_closed' });
  });
});

describe('options', () => {
  it.each([
    [{ modle: 'x' }, 'unknown_option'],
    [{ device: 'cuda' }, 'unsupported_device'],
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
