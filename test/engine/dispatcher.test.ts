import { describe, expect, it } from 'vitest';
import { encodeCommand, WasmCore } from '../../dist/core/index.js';
import { RequestCollector } from '../../dist/engine/collector.js';
import { Dispatcher } from '../../dist/engine/dispatcher.js';
import { prepareRequest } from '../../dist/engine/request.js';
import type { GenerateRequest } from '../../dist/index.js';
import { FakeHost } from '../support/fake_host.mjs';

const CONTEXT = { engineSeed: 0n, maxModelLen: 64, maxN: 16 };

function collectorOf(request: GenerateRequest, ordinal: number): RequestCollector {
  return new RequestCollector(prepareRequest(request, { ...CONTEXT, ordinal }));
}

/** A dispatcher on a core in the same thread; `run` turns the crank until nothing is left to do. */
async function createParts(maxNumRequests: number, tokenHeapBytes = 0) {
  const config = {
    maxModelLen: 64,
    numBlocks: 64,
    vocabSize: 100,
    maxNumSeqs: 8,
    maxNumRequests,
    tokenHeapBytes,
  };
  const core = await WasmCore.create(config);
  const host = new FakeHost(100);
  const dispatcher = new Dispatcher(maxNumRequests);
  let numCommands = 0;
  dispatcher.attach((command) => {
    numCommands += 1;
    dispatcher.onOutput(core.apply(command).slice(), null);
  });
  const run = async () => {
    await Promise.resolve();
    for (let instruction = core.schedule(); instruction !== null; instruction = core.schedule()) {
      host.submit(instruction);
      const result = host.collect();
      dispatcher.onOutput(core.commit(result).slice(), result);
      await Promise.resolve();
    }
  };
  return { dispatcher, run, numCommands: () => numCommands };
}

describe('the dispatcher', () => {
  it('lets requests wait when the core has places for them but no memory, and loses none', async () => {
    const { dispatcher, run } = await createParts(1000, 65_536);
    const request = { promptTokenIds: new Array(60).fill(1), maxTokens: 3, ignoreEos: true };
    const collectors = Array.from({ length: 500 }, (_, ordinal) => collectorOf(request, ordinal));
    for (const collector of collectors) dispatcher.submit(collector);
    await run();
    const results = await Promise.all(collectors.map(({ done }) => done));
    expect(results.map(({ error }) => error?.code)).toEqual(new Array(500).fill(undefined));
    expect(results.every(({ samples }) => samples[0]!.tokenIds.length === 3)).toBe(true);
  });

  it('sends what comes in one turn in one command', async () => {
    const { dispatcher, run, numCommands } = await createParts(100);
    const collectors = Array.from({ length: 20 }, (_, ordinal) =>
      collectorOf({ promptTokenIds: [1], maxTokens: 2 }, ordinal),
    );
    for (const collector of collectors) dispatcher.submit(collector);
    await run();
    await Promise.all(collectors.map(({ done }) => done));
    expect(numCommands()).toBe(1);
  });

  it('ends a request that waits in the queue at once when it is aborted, all its samples', async () => {
    const { dispatcher, run } = await createParts(1);
    const first = collectorOf({ promptTokenIds: [1], maxTokens: 4, ignoreEos: true }, 0);
    const second = collectorOf({ promptTokenIds: [1], n: 3 }, 1);
    dispatcher.submit(first);
    dispatcher.submit(second);
    await Promise.resolve();
    expect(dispatcher.numQueued).toBe(1);
    dispatcher.abort([second]);
    expect(dispatcher.numQueued).toBe(0);
    expect((await second.done).samples.map(({ finishReason }) => finishReason)).toEqual([
      'abort',
      'abort',
      'abort',
    ]);
    await run();
    expect((await first.done).samples[0]!.finishReason).toBe('length');
  });

  it('fails everything with one error when outputs do not fit together', async () => {
    const { dispatcher } = await createParts(4);
    const collector = collectorOf({ promptTokenIds: [1] }, 0);
    dispatcher.submit(collector);
    await Promise.resolve();
    const stranger = await WasmCore.create({ maxModelLen: 64, numBlocks: 64, vocabSize: 100 });
    const command = encodeCommand(77, { type: 'addRequests', requests: [{ id: 99, promptTokenIds: [] }] });
    dispatcher.onOutput(stranger.apply(command).slice(), null);
    expect((await collector.done).error).toMatchObject({ code: 'worker_died' });
    const late = collectorOf({ promptTokenIds: [1] }, 1);
    dispatcher.submit(late);
    expect((await late.done).error).toMatchObject({ code: 'worker_died' });
  });
});
