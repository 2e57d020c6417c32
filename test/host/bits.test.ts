// The same bits, however a sequence is cut, placed, batched, preempted or scored.

import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { decodeResult } from '../../src/core/results.js';
import type { Host } from '../../src/host/host.js';
import { promptOf, TestHosts } from './hosts.js';
import { bits, type ParamsFields, type PlanFields, runStep, stepBytes } from './instructions.js';
import { generate, range } from './sequences.js';

const hosts = new TestHosts();
const prompt = promptOf(37, 5);
const blocks = range(6);

describe('a sequence', () => {
  for (const model of ['llama', 'qwen3', 'mistral']) {
    it(`gives the same bits alone and among others that are prefilled and decoded beside it (${model})`, () => {
      const expected = hosts.alone(model, { prompt, numTokens: 20, blocks });
      const others = range(20).map((i) => ({
        prompt: promptOf(3 + i, 100 + i),
        numTokens: 5 + i,
        slot: i,
        blocks: range(4, i * 4),
        params: { seed: BigInt(i), topK: i, temperature: i % 3 },
      }));
      const generated = generate(hosts.start(model), [
        ...others,
        { prompt, numTokens: 20, slot: 30, blocks: range(6, 90) },
      ]);
      expect(generated[20]).toEqual(expected);
    });

    it(`gives the same bits in chunks of 1, 7 and 16 tokens, and in other slots and blocks (${model})`, () => {
      const expected = hosts.alone(model, { prompt, numTokens: 20, blocks });
      for (const chunkTokens of [1, 7, 16]) {
        const shuffled = [40, 3, 77, 12, 5, 61];
        expect(
          generate(hosts.start(model), [{ prompt, numTokens: 20, slot: 7, blocks: shuffled, chunkTokens }]),
        ).toEqual([expected]);
      }
    });
  }

  it('gives the same bits on every instruction set, named by option or by environment, and for any number of threads', () => {
    const expected = hosts.alone('llama', { prompt, numTokens: 20, blocks });
    for (const isa of ['scalar', 'avx2', 'avx512'] as const) {
      let host: Host;
      try {
        host = hosts.start('llama', { isa });
      } catch (error) {
        expect(error).toMatchObject({ code: 'unsupported_cpu_isa' }); // this machine hasn't got it
        continue;
      }
      expect(host.info.isa).toBe(isa);
      expect(generate(host, [{ prompt, numTokens: 20, blocks }])).toEqual([expected]);
    }
    process.env.KADENZ_CPU_ISA = 'scalar';
    try {
      const host = hosts.start('llama', { numThreads: 3 });
      expect(host.info.isa).toBe('scalar');
      expect(generate(host, [{ prompt, numTokens: 20, blocks }])).toEqual([expected]);
    } finally {
      delete process.env.KADENZ_CPU_ISA;
    }
  });

  it('gives the same bits after a preemption, with penalties whose history is given anew', () => {
    const params: ParamsFields = {
      repetitionPenalty: 1.3,
      frequencyPenalty: 0.5,
      presencePenalty: 0.2,
      processed: true,
    };
    const expected = hosts.alone('llama', { prompt, numTokens: 24, blocks, params });
    const [preempted] = generate(hosts.start(), [
      { prompt, numTokens: 24, blocks, params, preemptAfter: 11 },
    ]);
    expect(preempted).toEqual(expected);
    const unpenalised = hosts.alone('llama', { prompt, numTokens: 24, blocks, params: { processed: true } });
    expect(unpenalised.tokenIds).not.toEqual(expected.tokenIds);
  });

  it('gives the same bits when its tokens are taken from the step before, before that was collected', () => {
    const expected = hosts.alone('llama', { prompt, numTokens: 6, blocks });
    const host = hosts.start();
    host.submit(
      stepBytes(1, {
        open: [{ slot: 0, promptTokens: prompt.length, history: prompt }],
        table: range(3).map((i) => [0, i, i]),
        sequences: [{ slot: 0, start: 0, tokens: prompt }],
        samples: [[prompt.length - 1, 0]],
      }),
    );
    const tokenIds: number[] = [];
    for (let step = 2; step <= 6; step += 1) {
      host.submit(
        stepBytes(step, {
          sequences: [{ slot: 0, start: prompt.length + step - 2, tokens: [-1] }],
          samples: [[0, 0]],
        }),
      );
      tokenIds.push(...Array.from(decodeResult(host.collect()).tokenIds));
    }
    tokenIds.push(...Array.from(decodeResult(host.collect()).tokenIds));
    expect(tokenIds).toEqual(expected.tokenIds);
  });

  it('samples each of a fan-out as it would a request of its own', () => {
    const host = hosts.start();
    const slots = range(5);
    const result = runStep(host, 1, {
      open: slots.map((slot) => ({
        slot,
        sample: slot,
        promptTokens: prompt.length,
        params: { seed: 9n, logprobs: 3 },
      })),
      table: slots.flatMap((slot) => range(3).map((i): [number, number, number] => [slot, i, i])),
      sequences: [{ slot: 0, start: 0, tokens: prompt }],
      samples: slots.map((slot) => [prompt.length - 1, slot]),
    });
    for (const sample of slots) {
      const expected = hosts.alone('llama', { prompt, numTokens: 1, blocks, sample, params: { seed: 9n } });
      expect([result.tokenIds[sample]]).toEqual(expected.tokenIds);
      expect(bits([Number(result.logprobs[sample])])).toEqual(expected.logprobBits);
    }
    expect(new Set(Array.from(result.tokenIds)).size).toBeGreaterThan(1);
    expect(result.topEnds).toEqual([3, 6, 9, 12, 15]);
    expect(result.topTokenIds.slice(0, 3)).toEqual(result.topTokenIds.slice(12, 15));
    expect(result.ranks.every((rank) => Number(rank) >= 1)).toBe(true);
  });

  it('goes on from a copied block as from its own', () => {
    const short = prompt.slice(0, 10);
    const expected = hosts.alone('llama', {
      prompt: short,
      numTokens: 2,
      blocks,
      params: { temperature: 0 },
    });
    const host = hosts.start();
    const params = { temperature: 0 };
    runStep(host, 1, {
      open: [{ slot: 0, promptTokens: 10, params }],
      table: [[0, 0, 8]],
      sequences: [{ slot: 0, start: 0, tokens: short }],
      samples: [[9, 0]],
    });
    const second = runStep(host, 2, {
      open: [{ slot: 1, promptTokens: 10, params }],
      table: [[1, 0, 20]],
      copy: [[8, 20]],
      sequences: [
        { slot: 0, start: 10, tokens: [5] },
        { slot: 1, start: 10, tokens: [expected.tokenIds[0]!] },
      ],
      samples: [[1, 1]],
    });
    expect(second.tokenIds).toEqual([expected.tokenIds[1]]);
    expect(bits(second.logprobs as number[])).toEqual([expected.logprobBits[1]]);
  });
});

describe('log-probs', () => {
  it('of scored tokens are the bits of the same tokens generated, raw and processed', () => {
    for (const params of [
      { temperature: 0.8 },
      { temperature: 0.8, topK: 30, topP: 0.95, processed: true },
    ]) {
      const { tokenIds, logprobBits } = hosts.alone('llama', { prompt, numTokens: 16, blocks, params });
      const whole = [...prompt, ...tokenIds];
      const result = runStep(hosts.start(), 1, {
        open: [{ slot: 3, promptTokens: whole.length, params: { ...params, promptLogprobs: 2 } }],
        table: range(4).map((i) => [3, i, 10 + i]),
        sequences: [{ slot: 3, start: 0, tokens: whole }],
        scores: range(whole.length - 1).map((row) => [row, 3, whole[row + 1]!]),
      });
      expect(bits(result.scoreLogprobs as number[]).slice(prompt.length - 1)).toEqual(logprobBits);
      expect(result.scoreTopEnds).toEqual(range(whole.length - 1).map((i) => 2 * (i + 1)));
      expect(result.scoreRanks).toHaveLength(whole.length - 1);
    }
  });

  it('come for more rows than one portion of logits holds', () => {
    const long = promptOf(250, 8);
    const scoresOf = (host: Host, rows: number[]) =>
      runStep(host, 1, {
        open: [{ slot: 0, promptTokens: 250 }],
        table: range(16).map((i) => [0, i, i]),
        sequences: [{ slot: 0, start: 0, tokens: long }],
        scores: rows.filter((row) => row < 249).map((row) => [row, 0, long[row + 1]!]),
      }).scoreLogprobs;
    hosts.write('wide', { seed: 4, vocabSize: 70_001, hiddenSize: 8 });
    const all = scoresOf(hosts.start('wide'), range(249));
    const some = scoresOf(hosts.start('wide'), [3, 120, 248]);
    expect(bits(some as number[])).toEqual(bits([3, 120, 248].map((row) => Number(all[row]))));
  });
});

describe('min_tokens', () => {
  it('forbids the stop ids for just as many tokens', () => {
    const host = hosts.start();
    const stops = range(97).filter((token) => token !== 5);
    const [{ tokenIds } = { tokenIds: [] }] = generate(host, [
      { prompt, numTokens: 6, blocks, stops, params: { temperature: 0, minTokens: 3 } },
    ]);
    expect(tokenIds.slice(0, 3)).toEqual([5, 5, 5]);
    expect(tokenIds[3]).not.toBe(5);
  });

  it('that forbids every token fails the request, and what was planned on top of it', () => {
    const host = hosts.start();
    host.submit(
      stepBytes(1, {
        open: [{ slot: 0, promptTokens: 3, stops: range(97), params: { minTokens: 1 } }],
        table: [[0, 0, 0]],
        sequences: [{ slot: 0, start: 0, tokens: [1, 2, 3] }],
        samples: [[2, 0]],
      }),
    );
    host.submit(stepBytes(2, { sequences: [{ slot: 0, start: 3, tokens: [-1] }], samples: [[0, 0]] }));
    for (const step of [1, 2]) {
      const result = decodeResult(host.collect());
      expect(result).toMatchObject({ step, code: 'none', rowCodes: ['nan_logits'], tokenIds: [-1] });
    }
  });
});

describe('a request whose logits are not numbers', () => {
  it('fails alone, also in the step that was planned before it was known', () => {
    const model = hosts.write('nan', { seed: 1 });
    const path = join(model.directory, 'model.safetensors');
    const bytes = readFileSync(path);
    const dataStart = 8 + Number(bytes.readBigUInt64LE(0));
    bytes.writeFloatLE(Number.NaN, dataStart + 50 * 32 * 4); // embedding of token 50
    writeFileSync(path, bytes);
    const host = hosts.start('nan');
    const good = promptOf(5, 1).map((token) => token % 50);
    const first: PlanFields = {
      open: [
        { slot: 0, promptTokens: 3 },
        { slot: 1, promptTokens: 5 },
      ],
      table: [
        [0, 0, 0],
        [1, 0, 1],
      ],
      sequences: [
        { slot: 0, start: 0, tokens: [1, 50, 2] },
        { slot: 1, start: 0, tokens: good },
      ],
      samples: [
        [2, 0],
        [7, 1],
      ],
    };
    host.submit(stepBytes(1, first));
    host.submit(
      stepBytes(2, {
        sequences: [
          { slot: 0, start: 3, tokens: [-1] },
          { slot: 1, start: 5, tokens: [-2] },
        ],
        samples: [
          [0, 0],
          [1, 1],
        ],
      }),
    );
    const expected = hosts.alone('llama', { prompt: good, numTokens: 2, blocks });
    for (const step of [0, 1]) {
      const result = decodeResult(host.collect());
      expect(result.code).toBe('none');
      expect(result.rowCodes).toEqual(['nan_logits', 'none']);
      expect(result.tokenIds).toEqual([-1, expected.tokenIds[step]]);
      expect(result.logprobs[0]).toBeNaN();
    }
  });
});
