import { afterEach, describe, expect, it } from 'vitest';
import { encodeCommand } from '../../dist/core/index.js';
import { Rank } from '../../dist/rank/rank.js';

const HOST = new URL('../support/fake_host.mjs', import.meta.url).href;
const CONFIG = { maxModelLen: 64, numBlocks: 32, vocabSize: 100, maxNumSeqs: 4, maxNumBatchedTokens: 64 };

const ranks: Rank[] = [];

async function startRank({ query = '', stopGraceMs = 5_000 } = {}) {
  const ends: (Error | null)[] = [];
  let numOutputs = 0;
  let tellEnd = () => {};
  const ended = new Promise<void>((resolve) => {
    tellEnd = resolve;
  });
  const rank = await Rank.start({
    coreConfig: CONFIG,
    hostModule: HOST + query,
    hostOptions: { vocabSize: 100 },
    stopGraceMs,
    listener: {
      onOutput: () => {
        numOutputs += 1;
      },
      onEnd: (error) => {
        ends.push(error);
        tellEnd();
      },
    },
  });
  ranks.push(rank);
  return { rank, ends, ended, numOutputs: () => numOutputs };
}

const generate = () =>
  encodeCommand(1, { type: 'addRequests', requests: [{ id: 1, promptTokenIds: [1, 2, 3], maxTokens: 50 }] });

afterEach(async () => {
  for (const rank of ranks.splice(0)) await rank.stop();
});

describe('a rank', () => {
  it('starts with what its host says about itself, and ends without an error when told to stop', async () => {
    const { rank, ends } = await startRank();
    expect(rank.info).toEqual({ name: 'fake', fingerprint: 'fake' });
    await rank.stop();
    expect(ends).toEqual([null]);
  });

  it('rejects with the cause when the host cannot be opened', async () => {
    await expect(startRank({ query: '?failOpen=1' })).rejects.toMatchObject({
      code: 'worker_died',
      message: expect.stringContaining('there is no fake device'),
    });
  });

  it('tells of a host that throws, once, with the cause', async () => {
    const { rank, ends, ended } = await startRank({ query: '?throwAtStep=3' });
    rank.send(generate());
    await ended;
    expect(ends).toHaveLength(1);
    expect(ends[0]).toMatchObject({ code: 'worker_died', message: expect.stringContaining('caught fire') });
  });

  it('tells of a thread that exits, after handing over the outputs from before', async () => {
    const { rank, ends, ended, numOutputs } = await startRank({ query: '?exitAtStep=4' });
    rank.send(generate());
    await ended;
    expect(ends[0]).toMatchObject({ code: 'worker_died' });
    // The command's own output and those of steps 1 to 3.
    expect(numOutputs()).toBe(4);
  });

  it('stops although its host hangs', async () => {
    const { rank, ends } = await startRank({ query: '?hangAtStep=2', stopGraceMs: 50 });
    rank.send(generate());
    await rank.stop();
    expect(ends).toEqual([null]);
  });

  it('rejects a question for statistics when it has ended', async () => {
    const { rank } = await startRank();
    const asked = rank.stats();
    await expect(asked).resolves.toBeInstanceOf(Uint8Array);
    await rank.stop();
    await expect(rank.stats()).rejects.toMatchObject({ code: 'engine_closed' });
  });
});
