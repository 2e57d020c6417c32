import { describe, expect, it } from 'vitest';
import { COMMAND_FAULTS, RESULT_FAULTS, Swarm } from '../../dist/sim/faults/swarm.js';
import { KvMemory } from '../../dist/sim/host/kv_memory.js';
import {
  drawOf,
  EMPTY_FOLD,
  foldBlock,
  kvOf,
  readingOf,
  rootOf,
  tokenOf,
} from '../../dist/sim/host/oracle.js';
import { Random, runSeed, Stream } from '../../dist/sim/random.js';
import { drawRunConfig } from '../../dist/sim/run_config.js';
import { VirtualTime } from '../../dist/sim/virtual_time.js';
import { AZURE_CHAT_2023, drawLength, ROLLOUT } from '../../dist/sim/workloads/quantiles.js';

describe('the oracle', () => {
  const tokens = [5, 9, 2, 7];
  const name = { seed: 77, sample: 1, position: 4 };
  const draw = (list: number[], { version = 1, root = rootOf(0, 0, 0) } = {}) => {
    const kv = list.reduce((before, token) => kvOf(before, token, version), root);
    return drawOf(readingOf(kv, EMPTY_FOLD), name);
  };

  it('gives another draw for any change of token, order, weights, adapter, load of the adapter or salt', () => {
    const draws = [
      draw(tokens),
      ...[
        [5, 9, 2, 6],
        [4, 9, 2, 7],
        [9, 5, 2, 7],
      ].map((list) => draw(list)),
      draw(tokens, { version: 2 }),
      ...[rootOf(1, 0, 0), rootOf(1, 1, 0), rootOf(0, 0, 1)].map((root) => draw(tokens, { root })),
    ];
    expect(new Set(draws).size).toBe(draws.length);
  });

  it('gives another draw for another request, sample or position', () => {
    const others = [{ seed: 78 }, { sample: 2 }, { position: 5 }].map((change) =>
      drawOf(1234, { ...name, ...change }),
    );
    expect(new Set([drawOf(1234, name), ...others]).size).toBe(4);
  });

  it('notices a change in any position of any full block', () => {
    const fold = (kv: KvMemory) => [0, 1].reduce((so, block) => foldBlock(so, kv.sum(block)), EMPTY_FOLD);
    const kv = new KvMemory(2, 8);
    const before = fold(kv);
    const folds = Array.from({ length: 16 }, (_, address) => {
      const value = kv.read(address);
      kv.write(address, value + 1);
      const changed = fold(kv);
      kv.write(address, value);
      return changed;
    });
    for (const changed of folds) expect(changed).not.toBe(before);
    expect(folds).toHaveLength(16);
    expect(fold(kv)).toBe(before);
  });

  it('says EOS at the length that was drawn, where there is an EOS', () => {
    expect(tokenOf(123, { size: 50, eosTokenIds: [2, 9] }, true)).toSatisfy((token) =>
      [2, 9].includes(token),
    );
    expect(tokenOf(123, { size: 50, eosTokenIds: [] }, true)).toBe(
      tokenOf(123, { size: 50, eosTokenIds: [2] }, false),
    );
  });
});

describe('KV memory', () => {
  it('holds poison that never repeats until it is written, and again after a release', () => {
    const kv = new KvMemory(3, 4);
    const first = Array.from({ length: 12 }, (_, address) => kv.read(address));
    kv.poisonAll();
    const second = Array.from({ length: 12 }, (_, address) => kv.read(address));
    expect(new Set([...first, ...second]).size).toBe(24);
  });

  it('copies a block with its sum', () => {
    const kv = new KvMemory(2, 4);
    for (let address = 0; address < 4; address++) kv.write(address, 100 + address);
    kv.copyBlock(0, 1);
    expect(kv.read(6)).toBe(102);
    expect(kv.sum(1)).toBe(100 + 101 + 102 + 103);
  });
});

describe('randomness', () => {
  it('gives the first run of a session its own seed, and the others seeds that do not meet', () => {
    expect(runSeed(42n, 0)).toBe(42n);
    const seeds = [1n, 2n, 3n].flatMap((seed) => Array.from({ length: 500 }, (_, run) => runSeed(seed, run)));
    expect(new Set(seeds).size).toBe(1500);
    for (const seed of seeds) expect(seed).toBe(BigInt.asUintN(64, seed));
  });

  it('is the same for a seed and a stream, and unrelated between streams', () => {
    const bits = (stream: Stream) => {
      const random = new Random(9n, stream);
      return Array.from({ length: 20 }, () => random.bits());
    };
    expect(bits(Stream.faults)).toEqual(bits(Stream.faults));
    expect(bits(Stream.faults)).not.toEqual(bits(Stream.workload));
  });

  it('keeps its ranges, and comes to both of their ends', () => {
    const random = new Random(1n, Stream.config);
    const draws = Array.from({ length: 2000 }, () => random.between(-3, 4));
    expect([Math.min(...draws), Math.max(...draws)]).toEqual([-3, 4]);
    expect(draws.every(Number.isInteger)).toBe(true);
  });

  it('draws lengths that have the published quantiles', () => {
    const random = new Random(5n, Stream.workload);
    const quantile = (table: Parameters<typeof drawLength>[1], share: number) => {
      const lengths = Array.from({ length: 20_000 }, () => drawLength(random, table)).sort((a, b) => a - b);
      return lengths[Math.floor(share * lengths.length)]!;
    };
    expect(Math.abs(quantile(AZURE_CHAT_2023.prompt, 0.5) / 1020 - 1)).toBeLessThan(0.05);
    expect(Math.abs(quantile(AZURE_CHAT_2023.output, 0.9) / 424 - 1)).toBeLessThan(0.05);
    expect(Math.abs(quantile(ROLLOUT, 0.95) / 5180 - 1)).toBeLessThan(0.08);
  });

  it('draws configurations that a core takes, small pools among them only when faults are on', () => {
    const smallest = (hostile: boolean) =>
      Math.min(
        ...Array.from({ length: 300 }, (_, seed) => {
          const { core } = drawRunConfig(new Random(BigInt(seed), Stream.config), hostile);
          return (core.numBlocks * core.blockSize) / core.maxModelLen;
        }),
      );
    expect(smallest(false)).toBeGreaterThanOrEqual(1);
    expect(smallest(true)).toBeLessThan(0.5);
  });
});

describe('a swarm', () => {
  it('leaves each kind of fault out of some runs, has it in others, and has none at all when it is off', () => {
    const kinds = [...COMMAND_FAULTS, ...RESULT_FAULTS];
    const seen = new Map<string, number>();
    for (let seed = 0n; seed < 60n; seed++) {
      const swarm = new Swarm(new Random(seed, Stream.faultKinds), true);
      const random = new Random(seed, Stream.results);
      const drawn = new Set(Array.from({ length: 20_000 }, () => swarm.draw(random, kinds)));
      for (const kind of drawn) if (kind !== null) seen.set(kind, (seen.get(kind) ?? 0) + 1);
    }
    for (const kind of kinds) {
      expect(seen.get(kind) ?? 0, kind).toBeGreaterThan(0);
      expect(seen.get(kind) ?? 0, kind).toBeLessThan(60);
    }
    const off = new Swarm(new Random(1n, Stream.faultKinds), false);
    const random = new Random(1n, Stream.results);
    expect(Array.from({ length: 1000 }, () => off.draw(random, kinds)).every((kind) => kind === null)).toBe(
      true,
    );
  });
});

describe('virtual time', () => {
  it('keeps appointments in their order, those of one moment as they were made, and what they make in turn', () => {
    const time = new VirtualTime();
    const kept: string[] = [];
    const keep = (name: string) => () => kept.push(`${name} at ${time.nowUs}`);
    time.after(30, keep('third'));
    time.after(10, keep('first'));
    time.after(10, () => {
      keep('second')();
      time.after(5, keep('made'));
    });
    time.after(100, keep('late'));
    time.keepUpTo(50);
    expect(kept).toEqual(['first at 10', 'second at 10', 'made at 15', 'third at 30']);
    expect([time.nowUs, time.nextUs]).toEqual([30, 100]);
    time.advanceTo(20);
    expect(time.nowUs).toBe(30);
  });
});
