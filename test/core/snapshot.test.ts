// A copy of the memory is the core: the same bytes come out of whatever was restored from it.
import { createHash } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { encodeCommand, encodeResult, WasmCore } from '../../src/core/index.js';
import { CoreDriver, promptOf } from '../support/core_driver.js';
import { decodeInstruction, resultFor } from '../support/core_types.js';

const config = {
  maxModelLen: 200,
  numBlocks: 24,
  vocabSize: 1000,
  maxNumSeqs: 6,
  maxNumBatchedTokens: 64,
  maxNumRequests: 32,
  maxStepsInFlight: 2,
  longPrefillTokenThreshold: 24,
};

/** Runs a fixed script of commands and steps and keeps every byte that comes out. */
class Script {
  readonly hash = createHash('sha256');
  private readonly inFlight: Uint8Array[] = [];
  private turn = 0;

  constructor(
    readonly core: WasmCore,
    from?: Script,
  ) {
    if (!from) return;
    this.turn = from.turn;
    this.inFlight = from.inFlight.slice();
  }

  private keep(bytes: Uint8Array): Uint8Array {
    this.hash.update(bytes);
    return bytes.slice();
  }

  private arrive(): void {
    const id = this.turn;
    const requests = [
      {
        id,
        seed: id,
        promptTokenIds: promptOf(5 + ((id * 13) % 90), id % 3),
        n: 1 + (id % 4),
        maxTokens: 1 + (id % 29),
        priority: (id % 3) - 1,
      },
    ];
    this.keep(this.core.apply(encodeCommand(id, { type: 'addRequests', requests })));
  }

  run(turns: number): string {
    for (let i = 0; i < turns; i++) {
      this.turn++;
      if (this.turn % 4 === 1) this.arrive();
      if (this.turn % 37 === 0) {
        this.keep(this.core.apply(encodeCommand(this.turn, { type: 'pauseGeneration', mode: 'retract' })));
        this.keep(this.core.apply(encodeCommand(this.turn, { type: 'resumeGeneration' })));
      }
      for (let next = this.core.schedule(); next; next = this.core.schedule())
        this.inFlight.push(this.keep(next));
      const oldest = this.inFlight.shift();
      if (!oldest) continue;
      const result = resultFor(
        decodeInstruction(oldest),
        ({ slot, position }) => (slot * 31 + position * 7) % 1000,
      );
      this.keep(this.core.commit(encodeResult(result)));
      this.core.checkIntegrity();
    }
    return this.hash.copy().update(this.core.stats()).digest('hex');
  }
}

describe('snapshots', () => {
  it('restored into the same core, give the same bytes again', async () => {
    const script = new Script(await WasmCore.create(config));
    script.run(150);
    const snapshot = script.core.snapshot();
    const [first, second] = [new Script(script.core, script), new Script(script.core, script)];
    const expected = first.run(200);
    const after = first.core.snapshot();
    script.core.restore(snapshot);
    expect(Buffer.compare(script.core.snapshot(), snapshot)).toBe(0);
    expect(second.run(200)).toBe(expected);
    expect(Buffer.compare(second.core.snapshot(), after)).toBe(0);
  });

  it('restored into a fresh core of the same configuration, give the same bytes', async () => {
    const script = new Script(await WasmCore.create(config));
    script.run(150);
    const fresh = await WasmCore.create(config);
    fresh.restore(script.core.snapshot());
    const other = new Script(fresh, script);
    const same = new Script(script.core, script);
    expect(other.run(200)).toBe(same.run(200));
    expect(fresh.digest()).toBe(script.core.digest());
  });

  it('forked in two, go on independently and alike', async () => {
    const script = new Script(await WasmCore.create(config));
    script.run(150);
    const snapshot = script.core.snapshot();
    const [one, two] = await Promise.all([WasmCore.fromSnapshot(snapshot), WasmCore.fromSnapshot(snapshot)]);
    const [left, right] = [new Script(one, script), new Script(two, script)];
    const expected = new Script(script.core, script).run(120);
    const ahead = left.run(60);
    expect(right.run(60)).toBe(ahead);
    left.run(40);
    expect(right.run(60)).toBe(expected);
  });

  it('make a fork of a core of plain objects, with the steps that it has in flight', async () => {
    const driver = await CoreDriver.create({ maxStepsInFlight: 2 });
    driver.add({ n: 3, maxTokens: 5 });
    driver.schedule();
    const fork = await driver.core.fork();
    const step = driver.result();
    const answers = [driver.core, fork].map((core) => {
      const given = [core.commit(step)];
      for (let next = core.schedule(); next; next = core.schedule())
        given.push(core.commit(resultFor(next, () => 7)));
      return given;
    });
    expect(answers[0]!.flatMap(({ tokens }) => tokens)).toHaveLength(15);
    expect(answers[1]).toEqual(answers[0]);
    expect(fork.digest()).toBe(driver.core.digest());
  });

  it('of an earlier, smaller state leave nothing of the later one behind', async () => {
    const script = new Script(await WasmCore.create(config));
    const empty = script.core.snapshot();
    const first = new Script(script.core).run(180);
    script.core.restore(empty);
    expect(Buffer.compare(script.core.snapshot(), empty)).toBe(0);
    expect(new Script(script.core).run(180)).toBe(first);
  });

  it('of another configuration are refused', async () => {
    const core = await WasmCore.create(config);
    const larger = await WasmCore.create({ ...config, maxNumRequests: 4096, numBlocks: 9000 });
    expect(() => core.restore(larger.snapshot())).toThrowError(
      expect.objectContaining({ code: 'invalid_snapshot' }),
    );
    expect(() => core.restore(core.snapshot().subarray(0, 1000))).toThrowError(
      expect.objectContaining({ code: 'invalid_snapshot' }),
    );
  });
});

describe('determinism', () => {
  it('gives two cores the same bytes and the same digest for the same commands and results', async () => {
    const [one, two] = [await WasmCore.create(config), await WasmCore.create(config)];
    expect(new Script(one).run(300)).toBe(new Script(two).run(300));
    expect(one.digest()).toBe(two.digest());
    expect(one.digest()).not.toBe((await WasmCore.create(config)).digest());
  });
});
