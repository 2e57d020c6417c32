// Compares two Results of one step bit by bit: token ids, log-probs, ranks, top lists, prompt scores, and what failed.

import { messageBuffer } from '../../core/index.js';
import { Result } from '../../generated/index.js';
import { shownFloat } from './difference.js';
import { errorName } from './error_name.js';

/** The first entry that differs: that of a sample, of a score, or the whole step's. */
export interface ResultPart {
  kind: 'step' | 'sample' | 'score';
  /** Which sample or score of the plan. */
  entry: number;
  field: string;
  left: string;
  right: string;
}

type Values = ArrayLike<number>;

interface Column {
  name: string;
  kind: 'sample' | 'score';
  of(result: Result): Values | null;
  /** Running ends, for a column that has several values for each entry. */
  ends?(result: Result): Uint32Array | null;
  show?(value: number): string;
}

const bitsOf = (floats: Float32Array | null) =>
  floats === null ? null : new Uint32Array(floats.buffer, floats.byteOffset, floats.length);

/** In the order in which a person would ask. A column left out reads as zeros, as the core takes it. */
const COLUMNS: readonly Column[] = [
  { name: 'row_code', kind: 'sample', of: (result) => result.rowCodeArray(), show: errorName },
  { name: 'token_ids', kind: 'sample', of: (result) => result.tokenIdsArray() },
  { name: 'logprob', kind: 'sample', of: (result) => bitsOf(result.logprobArray()), show: shownFloat },
  { name: 'rank', kind: 'sample', of: (result) => result.rankArray() },
  { name: 'top_end', kind: 'sample', of: (result) => result.topEndArray() },
  {
    name: 'top_token_ids',
    kind: 'sample',
    of: (result) => result.topTokenIdsArray(),
    ends: (result) => result.topEndArray(),
  },
  {
    name: 'top_logprob',
    kind: 'sample',
    of: (result) => bitsOf(result.topLogprobArray()),
    ends: (result) => result.topEndArray(),
    show: shownFloat,
  },
  {
    name: 'score_logprob',
    kind: 'score',
    of: (result) => bitsOf(result.scoreLogprobArray()),
    show: shownFloat,
  },
  { name: 'score_rank', kind: 'score', of: (result) => result.scoreRankArray() },
  { name: 'score_top_end', kind: 'score', of: (result) => result.scoreTopEndArray() },
  {
    name: 'score_top_token_ids',
    kind: 'score',
    of: (result) => result.scoreTopTokenIdsArray(),
    ends: (result) => result.scoreTopEndArray(),
  },
  {
    name: 'score_top_logprob',
    kind: 'score',
    of: (result) => bitsOf(result.scoreTopLogprobArray()),
    ends: (result) => result.scoreTopEndArray(),
    show: shownFloat,
  },
];

/** @param left and `right` are Results that were verified; null when they say the same */
export function firstDifferentResult(left: Uint8Array, right: Uint8Array): ResultPart | null {
  const [a, b] = [left, right].map((bytes) => Result.getRootAsResult(messageBuffer(bytes))) as [
    Result,
    Result,
  ];
  if (a.code() !== b.code()) {
    const [leftCode, rightCode] = [withMessage(a), withMessage(b)];
    return { kind: 'step', entry: 0, field: 'code', left: leftCode, right: rightCode };
  }
  const parts = COLUMNS.map((column) => firstInColumn(column, a, b)).filter((part) => part !== null);
  return parts.reduce<ResultPart | null>(
    (first, part) => (first === null || comesBefore(part, first) ? part : first),
    null,
  );
}

/** Samples before scores, then by entry; columns are in order already. */
function comesBefore(a: ResultPart, b: ResultPart): boolean {
  if (a.kind !== b.kind) return a.kind === 'sample';
  return a.entry < b.entry;
}

function firstInColumn(column: Column, a: Result, b: Result): ResultPart | null {
  const [left, right] = [column.of(a) ?? [], column.of(b) ?? []];
  const length = Math.max(left.length, right.length);
  for (let i = 0; i < length; i += 1) {
    if ((left[i] ?? 0) === (right[i] ?? 0)) continue;
    const show = (values: Values) => {
      const value = values[i];
      return value === undefined ? 'nothing' : (column.show ?? String)(value);
    };
    return {
      kind: column.kind,
      entry: column.ends === undefined ? i : entryOf(i, column.ends(a)),
      field: `${column.name}[${i}]`,
      left: show(left),
      right: show(right),
    };
  }
  return null;
}

/** Whose value number `i` of a flat column is. */
function entryOf(i: number, ends: Uint32Array | null): number {
  return ends?.findIndex((end) => i < end) ?? -1;
}

function withMessage(result: Result): string {
  const [name, message] = [errorName(result.code()), result.message() ?? ''];
  return message === '' ? name : `${name} (${message})`;
}
