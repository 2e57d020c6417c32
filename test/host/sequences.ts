// Runs whole sequences on a host by hand-made instructions, in the ways that a core might: alone, in chunks, in other
// slots and blocks, beside others.

import type { Host } from '../../src/host/host.js';
import { bits, type ParamsFields, type PlanFields, runStep } from './instructions.js';

export const BLOCK_SIZE = 16;

export interface SequenceFields {
  prompt: number[];
  numTokens: number;
  params?: ParamsFields;
  slot?: number;
  /** The sequence's blocks, in order. */
  blocks: number[];
  sample?: number;
  stops?: number[];
  chunkTokens?: number;
  /** Reopened after so many generated tokens, in the same slot, and computed anew: a preemption. */
  preemptAfter?: number;
}

export interface Generated {
  tokenIds: number[];
  logprobBits: number[];
}

/** The plans of one sequence, one per step; the next is made from the token that the last one gave. */
export class SequenceRunner {
  readonly generated: Generated = { tokenIds: [], logprobBits: [] };
  readonly #fields: Required<Omit<SequenceFields, 'preemptAfter'>> & { preemptAfter: number };
  #computed = 0;
  #preempted = false;

  constructor(fields: SequenceFields) {
    this.#fields = {
      params: {},
      slot: 0,
      sample: 0,
      stops: [],
      chunkTokens: 1 << 20,
      preemptAfter: -1,
      ...fields,
    };
  }

  get done(): boolean {
    return this.generated.tokenIds.length >= this.#fields.numTokens;
  }

  get #tokens(): number[] {
    return [...this.#fields.prompt, ...this.generated.tokenIds];
  }

  /** What it adds to the next plan, given the number of rows before its own. */
  plan(firstRow: number): Required<Pick<PlanFields, 'open' | 'table' | 'sequences' | 'samples'>> {
    const { prompt, params, slot, sample, stops, chunkTokens, blocks, preemptAfter } = this.#fields;
    if (preemptAfter === this.generated.tokenIds.length && !this.#preempted) {
      this.#preempted = true;
      this.#computed = 0;
    }
    const tokens = this.#tokens.slice(this.#computed, this.#computed + chunkTokens);
    const isOpening = this.#computed === 0;
    const start = this.#computed;
    this.#computed += tokens.length;
    const samples: [number, number][] =
      this.#computed === this.#tokens.length ? [[firstRow + tokens.length - 1, slot]] : [];
    const firstBlock = Math.ceil(start / BLOCK_SIZE);
    const endBlock = Math.ceil(this.#computed / BLOCK_SIZE);
    return {
      open: isOpening
        ? [{ slot, sample, promptTokens: prompt.length, params, stops, history: this.#tokens }]
        : [],
      table: blocks.slice(firstBlock, endBlock).map((block, i) => [slot, firstBlock + i, block]),
      sequences: [{ slot, start, tokens }],
      samples,
    };
  }

  take(tokenId: number, logprob: number): void {
    this.generated.tokenIds.push(tokenId);
    this.generated.logprobBits.push(...bits([logprob]));
  }
}

/** Runs sequences together until all are done; each step holds one piece of each. */
export function generate(host: Host, sequences: readonly SequenceFields[], firstStep = 1): Generated[] {
  const runners = sequences.map((fields) => new SequenceRunner(fields));
  for (let step = firstStep; runners.some(({ done }) => !done); step += 1) {
    const plan: Required<Pick<PlanFields, 'open' | 'table' | 'sequences' | 'samples'>> = {
      open: [],
      table: [],
      sequences: [],
      samples: [],
    };
    const samplers: SequenceRunner[] = [];
    let rows = 0;
    for (const runner of runners.filter(({ done }) => !done)) {
      const part = runner.plan(rows);
      rows += part.sequences[0]!.tokens.length;
      plan.open.push(...part.open);
      plan.table.push(...part.table);
      plan.sequences.push(...part.sequences);
      plan.samples.push(...part.samples);
      if (part.samples.length > 0) samplers.push(runner);
    }
    const result = runStep(host, step, plan);
    if (result.code !== 'none') throw new Error(`step ${step}: ${result.code}: ${result.message}`);
    for (const [i, runner] of samplers.entries())
      runner.take(Number(result.tokenIds[i]), Number(result.logprobs[i]));
  }
  return runners.map(({ generated }) => generated);
}

export function range(count: number, first = 0): number[] {
  return Array.from({ length: count }, (_, i) => first + i);
}
