// The run as lanes in time, one per sample: what it did when. Lanes are what the Perfetto export and the report draw. The segments of a lane
// follow one another and never overlap.

import type { History } from '../history/history.js';
import type { RequestLife, SampleLife, Span } from '../history/history_requests.js';
import { range } from './text.js';

export type SegmentKind = 'queued' | 'prefill' | 'decode' | 'preempted';

export interface Segment {
  kind: SegmentKind;
  fromUs: number;
  toUs: number;
  /** For people: what was done. */
  words: string;
}

export interface Lane {
  request: RequestLife;
  /** Samples [first, first + count): one, or several that never started. */
  first: number;
  count: number;
  tokens: number;
  fromUs: number;
  toUs: number;
  /** How it ended; `unfinished` when the trace ends before. */
  outcome: string;
  preemptions: number;
  segments: Segment[];
}

export function lanesOf(history: History, request: RequestLife): Lane[] {
  const lanes = request.samples.map((sample) => startedLane(history, request, sample));
  for (const { first, count, end } of request.neverStarted) {
    const toUs = Math.max(request.arrivalUs, end.timeUs);
    lanes.push({
      ...{ request, first, count, tokens: 0, preemptions: 0, fromUs: request.arrivalUs, toUs },
      outcome: end.code ?? end.reason,
      segments: [{ kind: 'queued', fromUs: request.arrivalUs, toUs, words: 'waited, and never started' }],
    });
  }
  const known = request.samples.length + request.neverStarted.reduce((sum, { count }) => sum + count, 0);
  if (known < request.n) lanes.push(waitingLane(history, request, request.n - known));
  return lanes;
}

/** Samples that have not started when the trace ends. */
function waitingLane({ end }: History, request: RequestLife, count: number): Lane {
  const toUs = Math.max(request.arrivalUs, end.timeUs);
  return {
    ...{
      request,
      first: request.samples.length,
      count,
      tokens: 0,
      preemptions: 0,
      fromUs: request.arrivalUs,
      toUs,
    },
    outcome: 'unfinished',
    segments: [{ kind: 'queued', fromUs: request.arrivalUs, toUs, words: 'waits when the trace ends' }],
  };
}

function startedLane(history: History, request: RequestLife, sample: SampleLife): Lane {
  const endUs = sample.end?.timeUs ?? history.end.timeUs;
  const segments: Segment[] = [];
  let cursor = request.arrivalUs;
  const put = (kind: SegmentKind, { fromUs, toUs }: { fromUs: number; toUs: number }, words: string) => {
    const from = Math.max(cursor, Math.min(fromUs, endUs));
    const to = Math.max(from, Math.min(toUs, endUs));
    cursor = to;
    // Planned, but the sample had ended before: nothing to see.
    if (to > from || kind === 'prefill') segments.push({ kind, fromUs: from, toUs: to, words });
  };
  const firstUs = beginUs(history, firstStep(sample.spans[0]));
  put('queued', { fromUs: request.arrivalUs, toUs: firstUs }, 'waited for its first step');
  for (const span of sample.spans) put(span.kind, spanUs(history, span), spanWords(span, sample));
  return {
    ...{ request, first: sample.sample, count: 1, tokens: sample.tokens, preemptions: sample.preemptions },
    fromUs: request.arrivalUs,
    toUs: Math.max(cursor, endUs),
    outcome: sample.end === null ? 'unfinished' : (sample.end.code ?? sample.end.reason),
    segments,
  };
}

function firstStep(span: Span | undefined): number | null {
  if (span === undefined) return null;
  return span.kind === 'decode' ? span.firstStep : span.step;
}

/** Steps that were planned and never committed, and null, lie at the end of the trace. */
function beginUs({ steps, end }: History, step: number | null): number {
  return step !== null && step <= steps.count ? steps.beginUs(step) : end.timeUs;
}

function committedUs({ steps, end }: History, step: number): number {
  return step <= steps.count ? steps.committedUs(step) : end.timeUs;
}

function spanUs(history: History, span: Span): { fromUs: number; toUs: number } {
  switch (span.kind) {
    case 'prefill':
      return { fromUs: beginUs(history, span.step), toUs: committedUs(history, span.step) };
    case 'decode':
      return { fromUs: beginUs(history, span.firstStep), toUs: committedUs(history, span.lastStep) };
    default:
      return {
        fromUs: span.atUs ?? beginUs(history, span.step),
        toUs: beginUs(history, span.resumedStep),
      };
  }
}

function spanWords(span: Span, sample: SampleLife): string {
  if (span.kind === 'prefill') {
    const cached = span.cachedTokens > 0 ? `, ${span.cachedTokens} from the prefix cache` : '';
    const what = span.again ? 'computed again: positions' : 'positions';
    return `step ${span.step}, ${what} ${range(span.start, span.start + span.rows - 1)}${cached}`;
  }
  if (span.kind === 'preempted') return 'lost its blocks, and waited';
  const lastToken = Math.min(sample.tokens, span.firstToken + span.lastStep - span.firstStep);
  const tokens = lastToken < span.firstToken ? '' : `, tokens ${range(span.firstToken, lastToken)}`;
  return `steps ${range(span.firstStep, span.lastStep)}${tokens}`;
}
