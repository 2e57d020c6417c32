// Behaviour 15: a random blast. Seed 42, 20,000 steps, prompts up to 500 tokens, outputs up to 5,000, 1,024 sequences, 1,000 blocks,
// priorities -3 to 3, groups, aborts, pauses and resets. The checking host reads KV back, the oracle knows each token, the books are
// checked; when no more arrives, every request ends.
import { describe, expect, it } from 'vitest';
import { CheckingHost } from '../support/core_host.js';
import { mix32, nextChain, type OracleRequest, oracleToken, rootChain } from '../support/core_oracle.js';
import { Core, type OutputObject, type ResultObject } from '../support/core_types.js';

const numSteps = 20_000;
const limits = {
  maxNumSeqs: 1024,
  maxNumBatchedTokens: 2048,
  maxModelLen: 5_500,
  numBlocks: 1000,
  blockSize: 16,
  vocabSize: 32_000,
};

/** A generator of its own: the same numbers everywhere. */
function randomOf(seed: number) {
  let state = seed;
  return (below: number) => {
    state = (state + 0x9e3779b9) >>> 0;
    return mix32(state, 0x626c73) % below;
  };
}

interface Account extends OracleRequest {
  n: number;
  maxTokens: number;
  ended: Set<number>;
  at: Map<number, { chain: number; position: number }>;
}

class Blast {
  readonly accounts = new Map<number, Account>();
  readonly host = new CheckingHost(limits, (seed) => this.accounts.get(seed)!, false);
  readonly results: ResultObject[] = [];
  private readonly random = randomOf(42);
  private numLive = 0;

  constructor(private readonly core: Core) {}

  /** Mostly short outputs and a few very long ones, as rollouts have them. */
  private drawMaxTokens(): number {
    const magnitude = this.random(100);
    if (magnitude < 80) return 1 + this.random(60);
    return magnitude < 98 ? 1 + this.random(600) : 1 + this.random(5_000);
  }

  arrive(): void {
    if (this.random(100) >= 12 || this.numLive > 200) return;
    const id = this.accounts.size + 1;
    const family = this.random(6);
    const length = 1 + this.random(500);
    const promptTokenIds = Array.from({ length }, (_, i) => mix32(family, i) % limits.vocabSize);
    const n = this.random(4) === 0 ? 1 + this.random(8) : 1;
    const maxTokens = this.drawMaxTokens();
    const shape = { promptTokenIds, seed: id, adapter: 0, cacheSalt: this.random(8) === 0 ? 1 : 0 };
    this.accounts.set(id, { ...shape, n, maxTokens, ended: new Set(), at: new Map() });
    this.numLive++;
    const priority = this.random(7) - 3;
    this.take(this.core.apply({ type: 'addRequests', requests: [{ ...shape, id, n, priority, maxTokens }] }));
  }

  interfere(): void {
    const draw = this.random(1000);
    if (draw < 6) {
      const id = 1 + this.random(this.accounts.size || 1);
      this.take(this.core.apply({ type: 'abortRequests', requestIds: [id] }));
    } else if (draw < 8) {
      this.take(this.core.apply({ type: 'pauseGeneration', mode: draw === 6 ? 'retract' : 'keep' }));
      this.take(this.core.apply({ type: 'resumeGeneration' }));
    } else if (draw === 8) {
      this.take(this.core.apply({ type: 'resetPrefixCache', force: true }));
    }
  }

  /** Plans what can be planned and answers the oldest. False when nothing is left to do. */
  step(): boolean {
    for (;;) {
      const instruction = this.core.schedule();
      if (!instruction) break;
      this.results.push(this.host.execute(instruction));
    }
    const oldest = this.results.shift();
    if (!oldest) return false;
    this.take(this.core.commit(oldest));
    return true;
  }

  private take(output: OutputObject): void {
    for (const { request, sample, tokenId } of output.tokens) {
      const account = this.accounts.get(Number(request))!;
      const at = account.at.get(sample) ?? this.start(account, sample);
      const expected = oracleToken(
        at.chain,
        { seed: account.seed, sample, position: at.position },
        limits.vocabSize,
      );
      if (tokenId !== expected) {
        throw new Error(`token ${at.position} of ${request}/${sample} is ${tokenId}, not ${expected}`);
      }
      at.chain = nextChain(at.chain, tokenId);
      at.position++;
    }
    for (const { request, sample, count } of output.finishes) {
      const { ended, n } = this.accounts.get(Number(request))!;
      for (let index = sample; index < sample + count; index++) {
        if (ended.has(index)) throw new Error(`sample ${request}/${index} ended twice`);
        ended.add(index);
      }
      if (ended.size === n) this.numLive--;
    }
  }

  private start(account: Account, sample: number) {
    let chain = rootChain(account.adapter);
    for (const token of account.promptTokenIds) chain = nextChain(chain, token);
    const at = { chain, position: account.promptTokenIds.length };
    account.at.set(sample, at);
    return at;
  }
}

describe('behaviour 15: the random blast', () => {
  it('keeps every invariant over 20,000 steps, gives each sample its own tokens, and ends every request', {
    timeout: 300_000,
  }, async () => {
    const core = await Core.create({ ...limits, maxNumRequests: 512, maxStepsInFlight: 2 });
    const blast = new Blast(core);
    for (let step = 0; step < numSteps; step++) {
      blast.arrive();
      blast.interfere();
      blast.step();
      if (step % 100 === 0) core.checkIntegrity();
    }
    const arrived = core.stats();
    while (blast.step());
    core.checkIntegrity();
    const stats = core.stats();

    // What the seed must have led through for the run to mean something.
    expect(arrived.numRequests).toBeGreaterThan(0);
    expect(stats.numPreemptions).toBeGreaterThan(100);
    expect(stats.cachedPromptTokens).toBeGreaterThan(10_000);

    const unended = [...blast.accounts].filter(([, { ended, n }]) => ended.size !== n).map(([id]) => id);
    expect(unended).toEqual([]);
    expect([stats.numRequests, stats.numRunning, stats.numWaiting, stats.numHeldBlocks]).toEqual([
      0, 0, 0, 0,
    ]);
    expect(stats.numFreeBlocks + stats.numCachedBlocks).toBe(1000);
  });
});
