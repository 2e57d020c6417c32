// Plans with wrong numbers and bytes that are no plan: a failed step with a sentence, and the host goes on.

import { describe, expect, it } from 'vitest';
import { decodeResult } from '../../src/core/results.js';
import { randomNumbers } from '../support/tiny_model.js';
import { TestHosts } from './hosts.js';
import { type OpenFields, type PlanFields, runStep, stepBytes } from './instructions.js';

const hosts = new TestHosts();

describe('a plan with a wrong number', () => {
  const opening: OpenFields = { slot: 0, promptTokens: 4 };
  const good: PlanFields = {
    open: [opening],
    table: [[0, 0, 0]],
    sequences: [{ slot: 0, start: 0, tokens: [1, 2, 3, 4] }],
    samples: [[3, 0]],
  };
  const wrong: [string, PlanFields, RegExp][] = [
    [
      'slot opened',
      { open: [{ ...opening, slot: 40 }] },
      /open_slot\[0\] is 40; it must be from 0 to under 40/,
    ],
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
      const host = hosts.start();
      const refused = runStep(host, 1, { ...good, ...fields });
      expect(refused.code).toBe('step_failed');
      expect(refused.message).toMatch(sentence);
      expect(refused.step).toBe(1);
      expect(refused.tokenIds).toEqual([]);
      expect(runStep(host, 2, good)).toMatchObject({ code: 'none', step: 2 });
    });
  }

  it('with more rows than the batch may have is refused', () => {
    const host = hosts.start('llama', { maxNumBatchedTokens: 3 });
    expect(runStep(host, 1, good).message).toMatch(/4 rows; max_num_batched_tokens is 3/);
  });

  it('that skips positions, or takes another sample than its own, is refused', () => {
    const host = hosts.start();
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

  it('that leans on blocks of what its slot held before is refused', () => {
    const host = hosts.start();
    runStep(host, 1, { ...good, table: [0, 1, 2].map((index) => [0, index, index]) });
    const leaning = runStep(host, 2, { ...good, sequences: [{ slot: 0, start: 20, tokens: [1, 2, 3, 4] }] });
    expect(leaning.message).toMatch(/needs 2 blocks .* its table has 1/);
  });

  it('cut off or with changed bytes never does more than fail', () => {
    const host = hosts.start();
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
    const host = hosts.start();
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
