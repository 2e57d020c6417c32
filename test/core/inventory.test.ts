// Who is in the core: what `inventory` says of requests and sequences.

import { describe, expect, it } from 'vitest';
import { Core, resultFor } from '../../dist/core/index.js';

const config = { maxModelLen: 128, numBlocks: 8, vocabSize: 1000, maxNumSeqs: 2, maxNumBatchedTokens: 32 };
const prompt = (length: number) => Array.from({ length }, (_, i) => i + 1);

describe('the inventory', () => {
  it('is empty in a fresh core', async () => {
    const core = await Core.create(config);
    expect(core.inventory()).toEqual({ requests: [], sequences: [] });
  });

  it('lists requests by arrival with what they have not started, and sequences with slot, tokens and blocks', async () => {
    const core = await Core.create(config);
    const requests = [
      { id: 7, promptTokenIds: prompt(20), n: 2, maxTokens: 40 },
      { id: 3, promptTokenIds: prompt(5), n: 3, maxTokens: 4, priority: -1 },
    ];
    core.apply({ type: 'addRequests', requests });
    expect(core.inventory().requests).toEqual([
      { id: 7, arrival: 1, priority: 0, promptTokens: 20, unstarted: 2, held: false },
      { id: 3, arrival: 2, priority: -1, promptTokens: 5, unstarted: 3, held: false },
    ]);
    const step = core.schedule();
    if (step === null) throw new Error('nothing planned');
    const { requests: after, sequences } = core.inventory();
    expect(after.map(({ id, unstarted }) => [id, unstarted])).toEqual([
      [7, 2],
      [3, 1],
    ]);
    const fields = {
      request: 3,
      state: 'running',
      numTokens: 5,
      numComputed: 5,
      numBlocks: 1,
      preemptions: 0,
    };
    expect(sequences).toEqual([
      { ...fields, sample: 0, slot: 0 },
      { ...fields, sample: 1, slot: 1 },
    ]);
    core.commit(resultFor(step, () => 9));
    expect(core.inventory().sequences.map(({ numTokens }) => numTokens)).toEqual([6, 6]);
  });

  it('tells a follower, a preempted and an ended sequence apart', async () => {
    const core = await Core.create({ ...config, maxNumBatchedTokens: 16 });
    core.apply({
      type: 'addRequests',
      requests: [{ id: 1, promptTokenIds: prompt(20), n: 2, maxTokens: 40 }],
    });
    const first = core.schedule();
    if (first === null) throw new Error('nothing planned');
    expect(core.inventory().sequences.map(({ state }) => state)).toEqual(['running', 'follower']);
    core.commit(resultFor(first, () => 9));
    const second = core.schedule();
    if (second === null) throw new Error('nothing planned');
    core.apply({ type: 'abortRequests', requestIds: [1] });
    expect(core.inventory()).toMatchObject({
      requests: [],
      sequences: [{ state: 'ended' }, { state: 'ended' }],
    });
    core.commit(resultFor(second, () => 9));
    expect(core.inventory().sequences).toEqual([]);

    core.apply({ type: 'addRequests', requests: [{ id: 2, promptTokenIds: prompt(10), maxTokens: 40 }] });
    const third = core.schedule();
    if (third === null) throw new Error('nothing planned');
    core.commit(resultFor(third, () => 9));
    core.apply({ type: 'resetPrefixCache', force: true });
    const waiting = { request: 2, state: 'waiting', slot: null, numTokens: 11, numBlocks: 0, preemptions: 1 };
    expect(core.inventory().sequences).toMatchObject([waiting]);
  });

  it('leaves what waits to be handed out where it is', async () => {
    const core = await Core.create(config);
    core.apply({ type: 'addRequests', requests: [{ id: 5, promptTokenIds: prompt(4), maxTokens: 2 }] });
    const step = core.schedule();
    if (step === null) throw new Error('nothing planned');
    core.inventory();
    expect(core.commit(resultFor(step, () => 9)).starts).toEqual([{ request: 5, cachedTokens: 0 }]);
  });
});
