// The first thing in which two accounts of a run differ: a value, by step, request and field, and the two sides of it.

export type Id = number | bigint;

/** Who a step's entry belongs to. */
export interface Owner {
  request: Id;
  sample: number;
}

export interface Difference {
  /** 0: before the first step. */
  step: number;
  request: Id | null;
  sample: number | null;
  /** In the sequence, counted from the first token of the prompt. */
  position: number | null;
  /** As in 'plan.sequences[2].start', 'token_ids[5]', 'logprobs[0]', 'digest', 'command'. */
  field: string;
  /** Recorded, or of the first trace. */
  left: string;
  /** Replayed, or of the second trace. */
  right: string;
  /** Sentences that help. */
  hints: string[];
}

export function differenceAt(
  step: number,
  field: string,
  sides: { left: string; right: string },
  more: Partial<Pick<Difference, 'request' | 'sample' | 'position' | 'hints'>> = {},
): Difference {
  return { step, request: null, sample: null, position: null, field, ...sides, hints: [], ...more };
}

/** A place inside of plain objects: ['sequences', 2, 'start']. */
export type Path = readonly (string | number)[];

export interface Part {
  path: Path;
  left: unknown;
  right: unknown;
}

/** The first part in which two plain objects differ, in the order of their fields; null when there is none. */
export function firstDifferentPart(left: unknown, right: unknown, path: Path = []): Part | null {
  if (isObject(left) && isObject(right) && Array.isArray(left) === Array.isArray(right)) {
    for (const key of keysOf(left, right)) {
      const inner = firstDifferentPart(left[key], right[key], [...path, key]);
      if (inner !== null) return inner;
    }
    return null;
  }
  return Object.is(left, right) ? null : { path, left, right };
}

type Plain = Record<string | number, unknown>;

function isObject(value: unknown): value is Plain {
  return typeof value === 'object' && value !== null;
}

/** Numbers for arrays. Fields that only the right side has come last. */
function keysOf(left: Plain, right: Plain): (string | number)[] {
  if (Array.isArray(left) && Array.isArray(right))
    return Array.from({ length: Math.max(left.length, right.length) }, (_, i) => i);
  return [...new Set([...Object.keys(left), ...Object.keys(right)])];
}

/** 'table_changes[3].block': names as on the command line. */
export function fieldName(path: Path): string {
  return path
    .map((key) => (typeof key === 'number' ? `[${key}]` : `.${snakeCase(key)}`))
    .join('')
    .replace(/^\./, '');
}

export function snakeCase(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}

const MAX_SHOWN = 200;

/** A value for people: short, exact where it is a number. */
export function shown(value: unknown): string {
  if (value === undefined) return 'nothing';
  const text = typeof value === 'string' ? value : JSON.stringify(value, wideNumbers);
  return text.length <= MAX_SHOWN ? text : `${text.slice(0, MAX_SHOWN)}...`;
}

function wideNumbers(_: string, value: unknown): unknown {
  if (typeof value === 'bigint') return String(value);
  return typeof value === 'number' && !Number.isFinite(value) ? String(value) : value;
}

export function shownDigest(digest: bigint): string {
  return `0x${digest.toString(16).padStart(16, '0')}`;
}

/** A float32 by its value and its bits: two that print alike may differ. */
export function shownFloat(bits: number): string {
  const view = new DataView(new ArrayBuffer(4));
  view.setUint32(0, bits);
  return `${view.getFloat32(0)} (0x${bits.toString(16).padStart(8, '0')})`;
}
