import { describe, expect, it } from 'vitest';
import { createEngine, ids, prompt, useFakeEngines } from '../support/fake_engine.js';

useFakeEngines();

describe('pause', () => {
  const request = { promptTokenIds: [1, 2, 3], maxTokens: 40, ignoreEos: true, seed: 3 };
  // So long that it still runs when a pause arrives, however late this thread gets its turn.
  const long = { ...request, maxTokens: 4_000 };
  const roomy = { maxModelLen: 4_096, kvCacheBlocks: 1_024 };

  it.each(['keep', 'retract'] as const)('%s: freezes, and goes on to the same samples', async (mode) => {
    const engine = await createEngine(roomy);
    const undisturbed = await engine.generate(long);
    const stream = engine.stream(long);
    const first = await stream.next();
    await engine.pause(mode);
    const before = await engine.stats();
    expect(before).toMatchObject({ paused: true, numStepsInFlight: 0, numRequests: 1 });
    expect(before.numHeldBlocks).toBe(mode === 'keep' ? before.numHeldBlocks : 0);
    const queued = engine.generate(long);
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
    const engine = await createEngine({ ...roomy, maxNumRequests: 2, maxNumSeqs: 2 });
    const calls = Array.from({ length: 6 }, () => engine.generate(long));
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
