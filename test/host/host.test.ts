// The native host on random tiny models, driven by hand-made instructions.

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { decodeResult } from '../../src/core/results.js';
import { MemoryTags, Work } from '../../src/generated/index.js';
import type { Host } from '../../src/host/host.js';
import { type NativeHostOptions, openHost } from '../../src/host/native_host.js';
import { loadModel } from '../../src/model/index.js';
import { randomNumbers, writeTinyModel } from '../support/tiny_model.js';
import {
  bits,
  emptyWorkBytes,
  type OpenFields,
  type ParamsFields,
  type PlanFields,
  parallelGroupsBytes,
  releaseBytes,
  resumeBytes,
  runStep,
  stepBytes,
} from './instructions.js';
import { generate, range, type SequenceFields } from './sequences.js';

const LIMITS = { numBlocks: 96, blockSize: 16, maxNumSeqs: 40, maxModelLen: 256, maxNumBatchedTokens: 512 };
const VOCAB_SIZE = 97;

let folder: string;
const open: Host[] = [];

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'kadenz-host-'));
  writeTinyModel(join(folder, 'llama'), { seed: 1 });
  writeTinyModel(join(folder, 'qwen3'), {
    seed: 2,
    architecture: 'Qwen3ForCausalLM',
    dtype: 'BF16',
    headDim: 20,
  });
  writeTinyModel(join(folder, 'mistral'), {
    seed: 3,
    architecture: 'MistralForCausalLM',
    config: { sliding_window: 9 },
  });
});

afterEach(() => {
  for (const host of open.splice(0)) host.close();
});

afterAll(() => rmSync(folder, { recursive: true }));

function start(model = 'llama', options: Partial<NativeHostOptions> = {}): Host {
  const host = openHost({
    ...LIMITS,
    model: loadModel(join(folder, model)),
    dtype: 'float32',
    numThreads: 2,
    ...options,
  });
  open.push(host);
  return host;
}

function promptOf(length: number, seed: number): number[] {
  const random = randomNumbers(seed);
  return range(length).map(() => Math.floor(random() * VOCAB_SIZE));
}

/** What is generated alone, in one prefill, with one thread: what everything else is held against. */
function alone(model: string, fields: SequenceFields) {
  const [generated] = generate(start(model, { numThreads: 1 }), [fields]);
  return generated!;
}

const prompt = promptOf(37, 5);
const blocks = range(6);

describe('a sequence', () => {
  for (const model of ['llama', 'qwen3', 'mistral']) {
    it(`gives the same bits alone and among others that are prefilled and decoded beside it (${model})`, () => {
      const expected = alone(model, { prompt, numTokens: 20, blocks });
      const others = range(20).map((i) => ({
        prompt: promptOf(3 + i, 100 + i),
        numTokens: 5 + i,
        slot: i,
        blocks: range(4, i * 4),
        params: { seed: BigInt(i), topK: i, temperature: i % 3 },
      }));
      const generated = generate(start(model), [
        ...others,
        { prompt, numTokens: 20, slot: 30, blocks: range(6, 90) },
      ]);
      expect(generated[20]).toEqual(expected);
    });

    it(`gives the same bits in chunks of 1, 7 and 16 tokens, and in other slots and blocks (${model})`, () => {
      const expected = alone(model, { prompt, numTokens: 20, blocks });
      for (const chunkTokens of [1, 7, 16]) {
        const shuffled = [40, 3, 77, 12, 5, 61];
        expect(
          generate(start(model), [{ prompt, numTokens: 20, slot: 7, blocks: shuffled, chunkTokens }]),
        ).toEqual([expected]);
      }
    });
  }

  it('gives the same bits on every instruction set, named by option or by environment, and for any number of threads', () => {
    const expected = alone('llama', { prompt, numTokens: 20, blocks });
    for (const isa of ['scalar', 'avx2', 'avx512'] as const) {
      let host: Host;
      try {
        host = start('llama', { isa });
      } catch (error) {
        expect(error).toMatchObject({ code: 'unsupported_cpu_isa' }); // this machine hasn't got it
        continue;
      }
      expect(host.info.isa).toBe(isa);
      expect(generate(host, [{ prompt, numTokens: 20, blocks }])).toEqual([expected]);
    }
    process.env.KADENZ_CPU_ISA = 'scalar';
    try {
      const host = start('llama', { numThreads: 3 });
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
    const expected = alone('llama', { prompt, numTokens: 24, blocks, params });
    const [preempted] = generate(start(), [{ prompt, numTokens: 24, blocks, params, preemptAfter: 11 }]);
    expect(preempted).toEqual(expected);
    const unpenalised = alone('llama', { prompt, numTokens: 24, blocks, params: { processed: true } });
    expect(unpenalised.tokenIds).not.toEqual(expected.tokenIds);
  });

  it('gives the same bits when its tokens are taken from the step before, before that was collected', () => {
    const expected = alone('llama', { prompt, numTokens: 6, blocks });
    const host = start();
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
    const host = start();
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
      const expected = alone('llama', { prompt, numTokens: 1, blocks, sample, params: { seed: 9n } });
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
    const expected = alone('llama', { prompt: short, numTokens: 2, blocks, params: { temperature: 0 } });
    const host = start();
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
      const { tokenIds, logprobBits } = alone('llama', { prompt, numTokens: 16, blocks, params });
      const whole = [...prompt, ...tokenIds];
      const result = runStep(start(), 1, {
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
    writeTinyModel(join(folder, 'wide'), { seed: 4, vocabSize: 70_001, hiddenSize: 8 });
    const all = scoresOf(start('wide'), range(249));
    const some = scoresOf(start('wide'), [3, 120, 248]);
    expect(bits(some as number[])).toEqual(bits([3, 120, 248].map((row) => Number(all[row]))));
  });
});

describe('a request whose logits are not numbers', () => {
  it('fails alone, also in the step that was planned before it was known', () => {
    const model = writeTinyModel(join(folder, 'nan'), { seed: 1 });
    const path = join(model.directory, 'model.safetensors');
    const bytes = readFileSync(path);
    const dataStart = 8 + Number(bytes.readBigUInt64LE(0));
    bytes.writeFloatLE(Number.NaN, dataStart + 50 * 32 * 4); // embedding of token 50
    writeFileSync(path, bytes);
    const host = start('nan');
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
    const expected = alone('llama', { prompt: good, numTokens: 2, blocks });
    for (const step of [0, 1]) {
      const result = decodeResult(host.collect());
      expect(result.code).toBe('none');
      expect(result.rowCodes).toEqual(['nan_logits', 'none']);
      expect(result.tokenIds).toEqual([-1, expected.tokenIds[step]]);
      expect(result.logprobs[0]).toBeNaN();
    }
  });
});

describe('a plan with a wrong number', () => {
  const opening: OpenFields = { slot: 0, promptTokens: 4 };
  const good: PlanFields = {
    open: [opening],
    table: [[0, 0, 0]],
    sequences: [{ slot: 0, start: 0, tokens: [1, 2, 3, 4] }],
    samples: [[3, 0]],
  };
  const wrong: [string, PlanFields, RegExp][] = [
    ['slot opened', { open: [{ ...opening, slot: 40 }] }, /open_slot\[0\] is 40.*0 to 39/],
    ['prompt length', { open: [{ ...opening, promptTokens: 257 }] }, /open_prompt_tokens/],
    ['adapter', { open: [{ ...opening, adapter: 1 }] }, /adapter/],
    ['temperature', { open: [{ ...opening, params: { temperature: Number.NaN } }] }, /temperature is nan/],
    ['top_p', { open: [{ ...opening, params: { topP: 0 } }] }, /top_p/],
    ['min_p', { open: [{ ...opening, params: { minP: 1.5 } }] }, /min_p/],
    [
      'repetition_penalty',
      { open: [{ ...opening, params: { repetitionPenalty: 0 } }] },
      /repetition_penalty/,
    ],
    ['logprobs', { open: [{ ...opening, params: { logprobs: 98 } }] }, /logprobs is 98/],
    ['history token', { open: [{ ...opening, history: [97] }] }, /history_token_ids\[0\] is 97/],
    ['stop token', { open: [{ ...opening, stops: [-1] }] }, /stop_token_ids\[0\] is -1/],
    ['bias token', { open: [{ ...opening, bias: [[200, 1]] }] }, /bias_token_ids\[0\] is 200/],
    ['bias', { open: [{ ...opening, bias: [[20, Number.NaN]] }] }, /bias\[0\] is not a number/],
    ['history', { open: [{ ...opening, params: { frequencyPenalty: 1 } }] }, /0 tokens of history/],
    ['opening twice', { open: [opening, opening] }, /opened twice/],
    ['table slot', { table: [[40, 0, 0]] }, /table_slot\[0\] is 40/],
    ['table slot that is closed', { table: [[5, 0, 0]] }, /not open/],
    ['table index', { table: [[0, 16, 0]] }, /table_index\[0\] is 16/],
    ['table block', { table: [[0, 0, 96]] }, /table_block\[0\] is 96/],
    ['copy source', { copy: [[96, 0]] }, /copy_source/],
    ['copy target', { copy: [[0, 4_294_967_295]] }, /copy_target/],
    ['sequence slot', { sequences: [{ slot: 99, start: 0, tokens: [1, 2, 3, 4] }] }, /sequence_slot/],
    ['sequence of a closed slot', { sequences: [{ slot: 9, start: 0, tokens: [1, 2, 3, 4] }] }, /not open/],
    ['position', { sequences: [{ slot: 0, start: 253, tokens: [1, 2, 3, 4] }] }, /position 257/],
    [
      'position near 2^32',
      { sequences: [{ slot: 0, start: 4_294_967_295, tokens: [1, 2, 3, 4] }] },
      /position 4294967299/,
    ],
    ['uncovered position', { sequences: [{ slot: 0, start: 13, tokens: [1, 2, 3, 4] }] }, /needs 2 blocks/],
    ['token', { sequences: [{ slot: 0, start: 0, tokens: [1, 2, 3, 97] }] }, /token_ids\[3\] is 97/],
    [
      'gathered sample',
      { sequences: [{ slot: 0, start: 0, tokens: [1, 2, 3, -1] }] },
      /takes sample 0 of the step before, which had 0/,
    ],
    [
      'gathered sample near -2^31',
      { broken: { TokenIds: [1, 2, 3, -2_147_483_648] } },
      /takes sample 2147483647/,
    ],
    ['sampled row', { samples: [[4, 0]] }, /sample_row\[0\] is 4/],
    ['sampled slot', { samples: [[3, 40]] }, /sample_slot/],
    ['sampling inside the prompt', { samples: [[1, 0]] }, /inside its prompt/],
    [
      'sampling twice',
      {
        samples: [
          [3, 0],
          [3, 0],
        ],
      },
      /sampled twice/,
    ],
    ['scored row', { scores: [[9, 0, 1]] }, /score_row/],
    ['scored slot', { scores: [[0, 41, 1]] }, /score_slot/],
    ['scored token', { scores: [[0, 0, -5]] }, /score_token\[0\] is -5/],
    ['length', { broken: { SequenceStart: [] } }, /sequence_start has 0 entries; sequence_slot has 1/],
    ['row count', { broken: { SequenceNumTokens: [5] } }, /token_ids has 4 entries; .* has 5/],
    ['row count of 0', { broken: { SequenceNumTokens: [0] } }, /is 0/],
    ['row count near 2^32', { broken: { SequenceNumTokens: [4_294_967_295] } }, /max_model_len/],
    [
      'running end',
      { broken: { OpenHistoryEnd: [7] } },
      /open_history_end ends at 7; history_token_ids has 0/,
    ],
    [
      'falling ends',
      { open: [opening, { ...opening, slot: 1 }], broken: { OpenStopEnd: [3, 0] } },
      /less than the entry before/,
    ],
    [
      'two writers of one block',
      {
        open: [opening, { ...opening, slot: 1 }],
        table: [
          [0, 0, 0],
          [1, 0, 0],
        ],
        sequences: [
          { slot: 0, start: 0, tokens: [1] },
          { slot: 1, start: 0, tokens: [1] },
        ],
        samples: [],
      },
      /block 0/,
    ],
  ];
  for (const [name, fields, sentence] of wrong) {
    it(`is refused as a failed step that names it, and the host goes on: ${name}`, () => {
      const host = start();
      const refused = runStep(host, 1, { ...good, ...fields });
      expect(refused.code).toBe('step_failed');
      expect(refused.message).toMatch(sentence);
      expect(refused.step).toBe(1);
      expect(refused.tokenIds).toEqual([]);
      expect(runStep(host, 2, good)).toMatchObject({ code: 'none', step: 2 });
    });
  }

  it('with more rows than the batch may have is refused', () => {
    const host = start('llama', { maxNumBatchedTokens: 3 });
    expect(runStep(host, 1, good).message).toMatch(/4 rows; max_num_batched_tokens is 3/);
  });

  it('that skips positions, or takes another sample than its own, is refused', () => {
    const host = start();
    runStep(host, 1, good);
    const skipping = runStep(host, 2, { sequences: [{ slot: 0, start: 6, tokens: [1] }] });
    expect(skipping.message).toMatch(/positions from 4 were never computed/);
    const both: PlanFields = {
      open: [opening, { ...opening, slot: 1 }],
      table: [
        [0, 0, 0],
        [1, 0, 1],
      ],
      sequences: [
        { slot: 0, start: 0, tokens: [1, 2, 3, 4] },
        { slot: 1, start: 0, tokens: [1, 2, 3, 4] },
      ],
      samples: [
        [3, 0],
        [7, 1],
      ],
    };
    runStep(host, 3, both);
    expect(runStep(host, 4, { sequences: [{ slot: 0, start: 4, tokens: [-2] }] }).message).toMatch(/slot 1/);
    runStep(host, 5, both);
    host.submit(stepBytes(6, { sequences: [{ slot: 77, start: 4, tokens: [1] }] })); // fails
    host.submit(stepBytes(7, { sequences: [{ slot: 0, start: 4, tokens: [-1] }] })); // so there is nothing to take
    expect(decodeResult(host.collect()).code).toBe('step_failed');
    expect(decodeResult(host.collect()).message).toMatch(/takes sample 0 of the step before, which had 0/);
  });

  it('cut off or with changed bytes never does more than fail', () => {
    const host = start();
    const bytes = stepBytes(1, { ...good, scores: [[0, 0, 1]], copy: [[2, 3]] });
    const random = randomNumbers(12);
    const collected: string[] = [];
    for (let length = 0; length < bytes.length; length += 1) {
      host.submit(bytes.slice(0, length));
      collected.push(decodeResult(host.collect()).code);
    }
    expect(new Set(collected)).toEqual(new Set(['step_failed']));
    for (let round = 0; round < 1500; round += 1) {
      const changed = bytes.slice();
      for (let i = 0; i <= round % 4; i += 1) {
        changed[Math.floor(random() * changed.length)] = Math.floor(random() * 256);
      }
      host.submit(changed);
      host.collect();
    }
    expect(runStep(host, 2, good).code).toBe('none');
  });

  it('may lie at any address', () => {
    const host = start();
    const bytes = stepBytes(1, good);
    const expected = runStep(host, 1, good);
    for (const offset of [1, 2, 4, 7]) {
      const shifted = new Uint8Array(bytes.length + 8).subarray(offset, offset + bytes.length);
      shifted.set(bytes);
      host.submit(shifted);
      expect(decodeResult(host.collect())).toEqual(expected);
    }
  });
});

describe('memory', () => {
  it('of KV cache and weights is released and resumed, with steps refused in between and the same bits after', () => {
    const host = start();
    const sequence = { prompt, numTokens: 8, blocks };
    const expected = generate(host, [sequence]);
    const { weightBytes, kvBytes } = host.info;
    expect(weightBytes).toBeGreaterThan(0);
    expect(kvBytes).toBeGreaterThanOrEqual(96 * 16 * 2 * 2 * 8 * 2 * 4);
    for (const tags of [MemoryTags.kv_cache, MemoryTags.weights, MemoryTags.kv_cache | MemoryTags.weights]) {
      host.submit(releaseBytes(50, tags));
      expect(decodeResult(host.collect())).toMatchObject({ step: 50, code: 'none', message: '' });
      expect(host.info.kvBytes).toBe(tags & MemoryTags.kv_cache ? 0 : kvBytes);
      expect(host.info.weightBytes).toBe(tags & MemoryTags.weights ? 0 : weightBytes);
      const refused = runStep(host, 51, { open: [{ slot: 0, promptTokens: 1 }] });
      expect(refused.code).toBe('memory_released');
      host.submit(resumeBytes(52, tags));
      expect(decodeResult(host.collect()).code).toBe('none');
      expect(host.info).toMatchObject({ weightBytes, kvBytes });
      expect(generate(host, [sequence])).toEqual(expected);
    }
  });

  it('keeps the KV cache while weights alone are released', () => {
    const host = start();
    const { tokenIds } = alone('llama', { prompt, numTokens: 2, blocks, params: { temperature: 0 } });
    const first = runStep(host, 1, {
      open: [{ slot: 0, promptTokens: prompt.length, params: { temperature: 0 } }],
      table: range(3).map((i) => [0, i, i]),
      sequences: [{ slot: 0, start: 0, tokens: prompt }],
      samples: [[prompt.length - 1, 0]],
    });
    for (const bytes of [releaseBytes(2, MemoryTags.weights), resumeBytes(3, MemoryTags.weights)]) {
      host.submit(bytes);
      expect(decodeResult(host.collect()).code).toBe('none');
    }
    const second = runStep(host, 4, {
      sequences: [{ slot: 0, start: prompt.length, tokens: [Number(first.tokenIds[0])] }],
      samples: [[0, 0]],
    });
    expect([...first.tokenIds, ...second.tokenIds]).toEqual(tokenIds);
  });

  it('that was not released is not resumed', () => {
    const host = start();
    host.submit(resumeBytes(1, MemoryTags.weights));
    expect(decodeResult(host.collect()).code).toBe('memory_not_released');
  });
});

describe('other instructions', () => {
  const answer = (host: Host, bytes: Uint8Array) => {
    host.submit(bytes);
    return decodeResult(host.collect());
  };

  it('for weight updates and a single rank are accepted, adapters and more ranks refused', () => {
    const host = start();
    expect(answer(host, emptyWorkBytes(1, Work.BeginWeightUpdate))).toMatchObject({ step: 1, code: 'none' });
    expect(answer(host, emptyWorkBytes(2, Work.FinishWeightUpdate))).toMatchObject({ step: 2, code: 'none' });
    expect(answer(host, parallelGroupsBytes(3, 1)).code).toBe('none');
    expect(answer(host, parallelGroupsBytes(4, 2))).toMatchObject({
      code: 'unsupported',
      message: /must be 1/,
    });
    expect(answer(host, emptyWorkBytes(5, Work.LoadAdapter))).toMatchObject({
      code: 'unsupported',
      message: /adapters/,
    });
  });

  it('after a shutdown are refused', () => {
    const host = start();
    expect(answer(host, emptyWorkBytes(1, Work.Shutdown)).code).toBe('none');
    expect(answer(host, stepBytes(2, {})).code).toBe('shut_down');
  });
});

describe('a host', () => {
  it('is closed as often as one likes, with instructions under way, and then refuses calls', () => {
    const host = start();
    for (const step of [1, 2, 3]) host.submit(stepBytes(step, {}));
    host.close();
    host.close();
    expect(() => host.submit(stepBytes(4, {}))).toThrow(expect.objectContaining({ code: 'host_closed' }));
    expect(() => host.collect()).toThrow(expect.objectContaining({ code: 'host_closed' }));
    expect(() => host.info).toThrow(expect.objectContaining({ code: 'host_closed' }));
  });

  it('has nothing to collect before something was submitted, and takes only so much', () => {
    const host = start();
    expect(() => host.collect()).toThrow(expect.objectContaining({ code: 'nothing_submitted' }));
    const submitMany = () => {
      for (let step = 1; step < 100; step += 1) host.submit(stepBytes(step, {}));
    };
    expect(submitMany).toThrow(expect.objectContaining({ code: 'too_many_steps_in_flight' }));
  });

  it('is refused with impossible sizes, by name', () => {
    for (const [options, sentence] of [
      [{ numBlocks: 0 }, /numBlocks is 0/],
      [{ blockSize: 24 }, /blockSize is 24/],
      [{ maxNumSeqs: 1e6 }, /maxNumSeqs is 1000000/],
      [{ maxModelLen: 0 }, /maxModelLen is 0/],
      [{ maxNumBatchedTokens: 2 ** 31 }, /maxNumBatchedTokens/],
    ] as const) {
      expect(() => start('llama', options)).toThrow(sentence);
    }
    expect(() => start('llama', { dtype: 'float64' as 'float32' })).toThrow(/dtype must be one of/);
  });

  it('whose weights changed since they were looked at is refused', () => {
    const { directory } = writeTinyModel(join(folder, 'shrunk'), { seed: 6 });
    const model = loadModel(directory);
    writeFileSync(
      join(directory, 'model.safetensors'),
      readFileSync(join(directory, 'model.safetensors')).subarray(0, 5000),
    );
    expect(() => start('llama', { model })).toThrow(expect.objectContaining({ code: 'file_truncated' }));
  });

  it('ends with its worker, though nobody closed it and a step is under way', async () => {
    const source = `
      const { parentPort, workerData } = require('node:worker_threads');
      const { NativeHost } = require(workerData.addon);
      globalThis.host = new NativeHost(workerData.options);
      for (let i = 0; i < 20; i += 1) globalThis.host.submit(workerData.bytes);
      parentPort.postMessage('submitted');
      setInterval(() => {}, 1000);`;
    const { config, tensors, files } = loadModel(join(folder, 'llama'));
    const options = {
      ...LIMITS,
      config,
      files,
      dtype: 'float32',
      numThreads: 2,
      tensors: tensors.map((t) => ({ ...t, dtype: 'float32' })),
    };
    const bytes = stepBytes(1, {
      open: range(30).map((slot) => ({ slot, promptTokens: 16 })),
      table: range(30).map((slot) => [slot, 0, slot]),
      sequences: range(30).map((slot) => ({ slot, start: 0, tokens: range(16) })),
      samples: range(30).map((slot) => [slot * 16 + 15, slot]),
    });
    for (let round = 0; round < 3; round += 1) {
      const addon = join(import.meta.dirname, '../../build/native/Release/kadenz.node');
      const worker = new Worker(source, { eval: true, workerData: { addon, options, bytes } });
      await new Promise((resolve, reject) => worker.once('message', resolve).once('error', reject));
      expect(await worker.terminate()).toBe(1);
    }
  });
});
