// The steps of a run as a table of columns, 64 bytes a step: a long run has millions of them. Row i is step i + 1.

/** What is known of one step. Counts of sequences and blocks are those right after it was planned. */
export interface StepRow {
  /** Microseconds since the recording began. */
  plannedUs: number;
  committedUs: number;
  /** 0: a step plan; else the wire's number of the control instruction that it was. */
  work: number;
  /** Positions computed, in all, and those of prompts (or of what a preemption has to compute again). */
  rows: number;
  prefillRows: number;
  sequences: number;
  samples: number;
  /** Tokens delivered: samples of sequences that had ended meanwhile do not count. */
  tokens: number;
  /** Sequences that lost their blocks while this step was planned. */
  preemptions: number;
  running: number;
  waiting: number;
  freeBlocks: number;
  cachedBlocks: number;
  heldBlocks: number;
}

export type StepColumn = keyof StepRow;

const WIDE = ['plannedUs', 'committedUs'] as const;
const NARROW = [
  'work',
  'rows',
  'prefillRows',
  'sequences',
  'samples',
  'tokens',
  'preemptions',
  'running',
  'waiting',
  'freeBlocks',
  'cachedBlocks',
  'heldBlocks',
] as const;

export class StepTable {
  #count = 0;
  #capacity = 1024;
  readonly #columns = new Map<StepColumn, Float64Array | Uint32Array>();

  constructor() {
    for (const name of WIDE) this.#columns.set(name, new Float64Array(this.#capacity));
    for (const name of NARROW) this.#columns.set(name, new Uint32Array(this.#capacity));
  }

  get count(): number {
    return this.#count;
  }

  add(row: StepRow): void {
    if (this.#count === this.#capacity) this.#grow();
    for (const [name, column] of this.#columns) column[this.#count] = row[name];
    this.#count += 1;
  }

  /** One entry per step; a view, valid until the next `add`. */
  column(name: (typeof NARROW)[number]): Uint32Array {
    return this.#columns.get(name)!.subarray(0, this.#count) as Uint32Array;
  }

  /** @param step from 1 */
  row(step: number): StepRow {
    if (step < 1 || step > this.#count) throw new Error(`there is no step ${step} among ${this.#count}`);
    return Object.fromEntries(
      Array.from(this.#columns, ([name, column]) => [name, column[step - 1]]),
    ) as unknown as StepRow;
  }

  /** When the device could begin: the plan was there, and the step before was done. */
  beginUs(step: number): number {
    const plannedUs = this.#columns.get('plannedUs')![step - 1]!;
    return step === 1 ? plannedUs : Math.max(plannedUs, this.committedUs(step - 1));
  }

  committedUs(step: number): number {
    return this.#columns.get('committedUs')![step - 1]!;
  }

  #grow(): void {
    this.#capacity *= 2;
    for (const [name, column] of this.#columns) {
      const larger =
        column instanceof Float64Array ? new Float64Array(this.#capacity) : new Uint32Array(this.#capacity);
      larger.set(column);
      this.#columns.set(name, larger);
    }
  }
}
