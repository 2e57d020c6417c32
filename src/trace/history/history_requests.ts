// What became of each request: a book that is kept while a trace is walked. A request has n samples; a sample's life is a list of spans, one
// per prefill chunk, one per run of decode steps, one per wait after a preemption. Spans name steps; their times are in the step table.

import type { AskedRequest } from './history_commands.js';

type Id = number | bigint;

/** A part of a prompt (or of what a preemption threw away) that was computed in one step. */
export interface PrefillSpan {
  kind: 'prefill';
  step: number;
  /** Positions [start, start + rows). */
  start: number;
  rows: number;
  /** Positions before `start` that the prefix cache gave, in the first chunk. */
  cachedTokens: number;
  /** Again, after a preemption. */
  again: boolean;
  /** The last chunk: the next token was sampled in the same step. */
  sampled: boolean;
}

/** Consecutive steps with one token each: the first of them sampled token `firstToken` of the output, counted from 1. */
export interface DecodeSpan {
  kind: 'decode';
  firstStep: number;
  lastStep: number;
  firstToken: number;
  /** A sample of a fan-out starts here, in the last step of the prefill that another sample of its request has done. */
  fanOut: boolean;
}

/** It lost its blocks, and waited. */
export interface PreemptedSpan {
  kind: 'preempted';
  /** Since the recording began, where a command did it; null: it was while step `step` was planned. */
  atUs: number | null;
  step: number;
  /** The step in which it was computed again; null: it never was. */
  resumedStep: number | null;
}

export type Span = PrefillSpan | DecodeSpan | PreemptedSpan;

export interface SampleEnd {
  reason: string;
  /** Reason stop: the token; else null. */
  stopToken: number | null;
  /** Reason error: its code; else null. */
  code: string | null;
  /** The step whose commit ended it; null: a command did. */
  step: number | null;
  timeUs: number;
}

export interface SampleLife {
  sample: number;
  /** Delivered. */
  tokens: number;
  preemptions: number;
  spans: Span[];
  /** How many tokens each weight version has sampled, in order. */
  weightVersions: { version: Id; tokens: number }[];
  end: SampleEnd | null;
}

export interface RequestLife extends AskedRequest {
  arrivalUs: number;
  /** The step that was committed last when it came. */
  arrivedAfterStep: number;
  /** In which something of it was computed first; null: never. */
  firstStep: number | null;
  /** Prompt tokens that the prefix cache spared its first sample. */
  cachedTokens: number;
  /** Those that started, by sample. */
  samples: SampleLife[];
  /** Samples [first, first + count) ended before they had started: aborted, or refused with their request. */
  neverStarted: NeverStarted[];
}

export interface NeverStarted {
  first: number;
  count: number;
  end: SampleEnd;
}

interface Seat {
  request: RequestLife;
  sample: SampleLife;
  /** Until it is sampled after it was (re)started. */
  prefilling: boolean;
}

/** Where a span's sample is: for views that name a slot's owner. */
export interface Owner {
  request: Id;
  sample: number;
  promptTokens: number;
}

export class RequestBook {
  readonly requests: RequestLife[] = [];
  readonly #live = new Map<Id, RequestLife>();
  readonly #seats: (Seat | null)[];
  /** Rows that were computed a second time, after a preemption. */
  recomputedRows = 0;

  constructor(maxNumSeqs: number) {
    this.#seats = new Array<Seat | null>(maxNumSeqs).fill(null);
  }

  add(asked: AskedRequest, arrivalUs: number, arrivedAfterStep: number): RequestLife {
    const request = {
      ...asked,
      arrivalUs,
      arrivedAfterStep,
      firstStep: null,
      cachedTokens: 0,
      samples: [],
      neverStarted: [],
    };
    this.requests.push(request);
    return request;
  }

  accept(request: RequestLife): void {
    this.#live.set(request.id, request);
  }

  isLive(id: Id): boolean {
    return this.#live.has(id);
  }

  ownerOf(slot: number): Owner | null {
    const seat = this.#seats[slot] ?? null;
    if (seat === null) return null;
    return {
      request: seat.request.id,
      sample: seat.sample.sample,
      promptTokens: seat.request.promptTokens,
    };
  }

  /** A slot was opened in `step` for this sample. */
  open(slot: number, id: Id, index: number, step: number): void {
    const request = this.#live.get(id);
    if (request === undefined) throw new Error(`request ${id} got slot ${slot} and was never added`);
    const sample = sampleOf(request, index);
    const last = sample.spans.at(-1);
    if (last?.kind === 'preempted') {
      last.resumedStep = step;
    } else if (last !== undefined) {
      sample.preemptions += 1;
      sample.spans.push({ kind: 'preempted', atUs: null, step, resumedStep: step });
    }
    request.firstStep ??= step;
    this.#seats[slot] = { request, sample, prefilling: true };
  }

  /** `rows` positions from `start` are computed for the slot in `step`. Gives true when they are part of a prefill. */
  compute(slot: number, step: number, { start, rows }: { start: number; rows: number }): boolean {
    const { request, sample, prefilling } = this.#seatAt(slot);
    const last = sample.spans.at(-1);
    if (prefilling) {
      const isFirst = last?.kind !== 'prefill';
      const again =
        last !== undefined && (last.kind === 'preempted' || (last.kind === 'prefill' && last.again));
      if (again) this.recomputedRows += rows;
      const cachedTokens = isFirst ? start : 0;
      sample.spans.push({ kind: 'prefill', step, start, rows, cachedTokens, again, sampled: false });
      return true;
    }
    if (last?.kind === 'decode' && last.lastStep === step - 1) last.lastStep = step;
    else sample.spans.push(decodeSpan(step, start - request.promptTokens + 2));
    return false;
  }

  /** The slot's next token is sampled in `step`. Gives the sample that it will belong to. */
  sampled(slot: number, step: number): SampleLife {
    const seat = this.#seatAt(slot);
    if (seat.prefilling) {
      seat.prefilling = false;
      const last = seat.sample.spans.at(-1);
      if (last?.kind === 'prefill' && last.step === step) last.sampled = true;
      else seat.sample.spans.push({ ...decodeSpan(step, 1), fanOut: true });
    }
    return seat.sample;
  }

  /** Sequences that have a seat here, and none any more in the core, were preempted. */
  preempt(isSeated: (slot: number, owner: Owner) => boolean, step: number, atUs: number | null): void {
    for (const [slot, seat] of this.#seats.entries()) {
      if (seat === null || isSeated(slot, this.ownerOf(slot)!)) continue;
      seat.sample.preemptions += 1;
      seat.sample.spans.push({ kind: 'preempted', atUs, step, resumedStep: null });
      this.#seats[slot] = null;
    }
  }

  started(id: Id, cachedTokens: number): void {
    const request = this.#live.get(id);
    if (request !== undefined) request.cachedTokens = cachedTokens;
  }

  /** Samples of a live request ended. */
  finish(id: Id, ended: NeverStarted): void {
    const request = this.#live.get(id);
    if (request === undefined) throw new Error(`request ${id} ended and was never added`);
    endSamples(request, ended);
    for (const [slot, seat] of this.#seats.entries()) {
      if (seat?.request === request && seat.sample.end !== null) this.#seats[slot] = null;
    }
    if (numEnded(request) === request.n) this.#live.delete(id);
  }

  #seatAt(slot: number): Seat {
    const seat = this.#seats[slot] ?? null;
    if (seat === null) throw new Error(`slot ${slot} is computed and nobody has opened it`);
    return seat;
  }
}

/** A range that never started stays one entry: n may be as large as it likes. */
export function endSamples(request: RequestLife, ended: NeverStarted): void {
  const sample = request.samples[ended.first];
  if (sample === undefined) request.neverStarted.push(ended);
  else sample.end = ended.end;
}

export function numEnded({ samples, neverStarted }: RequestLife): number {
  const unstarted = neverStarted.reduce((sum, { count }) => sum + count, 0);
  return samples.filter((sample) => sample.end !== null).length + unstarted;
}

/** The request's sample of this index; those before it are there too. */
function sampleOf(request: RequestLife, index: number): SampleLife {
  for (let next = request.samples.length; next <= index; next += 1) {
    request.samples.push({
      sample: next,
      tokens: 0,
      preemptions: 0,
      spans: [],
      weightVersions: [],
      end: null,
    });
  }
  return request.samples[index]!;
}

function decodeSpan(step: number, firstToken: number): DecodeSpan {
  return { kind: 'decode', firstStep: step, lastStep: step, firstToken, fanOut: false };
}
