// What the report's charts draw, thinned to what a browser can hold: at most MAX_POINTS points a series, MAX_LANES lanes, MAX_SEGMENTS
// segments. What was left out is said in `notes`, which the page shows.

import type { History } from '../history/history.js';
import type { RequestLife } from '../history/history_requests.js';
import { type Lane, lanesOf, type Segment } from './lanes.js';
import { answerText, grouped, range } from './text.js';

export const MAX_POINTS = 2000;
export const MAX_LANES = 2000;
const MAX_SEGMENTS = 20_000;
/** Windows of the throughput's curve. */
const MAX_WINDOWS = 400;
const MAX_COMMANDS = 200;

/** Times are microseconds since the run's first event, which is `originUs` after the recording began. */
export interface ReportData {
  originUs: number;
  endUs: number;
  lanes: {
    /** On the axis. */
    label: string;
    /** In the tooltip. */
    title: string;
    end: string;
  }[];
  /** Index into lanes, index into KINDS, from, to, words. */
  segments: [lane: number, kind: number, fromUs: number, toUs: number, words: string][];
  /** Those of one moment together, each with its answer. */
  commands: [timeUs: number, texts: string[]][];
  numBlocks: number;
  /** One entry per point; a point's values hold until the next. */
  steps: Record<'timeUs' | 'running' | 'waiting' | 'prefillRows' | 'decodeRows', number[]> &
    Record<'freeBlocks' | 'cachedBlocks' | 'heldBlocks', number[]>;
  /** One entry per edge of a window: the rate holds until the next edge, the share is that at the edge. */
  windows: { timeUs: number[]; tokensPerSecond: number[]; finishedShare: number[] };
  notes: string[];
}

export const KINDS = ['queued', 'prefill', 'decode', 'preempted'] as const;

/** @param span from the first event to the last */
export function reportData(history: History, span: { startUs: number; endUs: number }): ReportData {
  const notes: string[] = [];
  const lanes = chooseLanes(history, notes);
  const { startUs } = span;
  const since = (us: number) => us - startUs;
  const steps = thinSteps(history, notes);
  const windows = windowsOf(history, span);
  return {
    originUs: startUs,
    endUs: since(span.endUs),
    lanes: lanes.map(describeLane),
    segments: thinSegments(lanes, span, notes).map(([lane, kind, fromUs, toUs, words]) => {
      return [lane, kind, since(fromUs), since(toUs), words];
    }),
    commands: chooseCommands(history, notes).map(([timeUs, texts]) => [since(timeUs), texts]),
    numBlocks: history.config.numBlocks,
    steps: { ...steps, timeUs: steps.timeUs.map(since) },
    windows: { ...windows, timeUs: windows.timeUs.map(since) },
    notes,
  };
}

function describeLane({ request, first, count, tokens, outcome, preemptions }: Lane) {
  const samples = range(first, first + count - 1);
  const sample = count > 1 ? `, samples ${samples}` : request.n > 1 ? `, sample ${samples}` : '';
  const again = preemptions > 0 ? `, preempted ${grouped(preemptions)} times` : '';
  return {
    label: request.n > 1 ? `${request.id}.${first}` : String(request.id),
    title: `Request ${request.id}${sample}`,
    end: `${grouped(request.promptTokens)} prompt tokens, ${grouped(tokens)} sampled${again}; ${outcome}`,
  };
}

/** All lanes where they fit; else those of the longest requests (a tenth of the places) and of others evenly spread by arrival. */
function chooseLanes(history: History, notes: string[]): Lane[] {
  const { requests } = history;
  const numLanes = ({ n, samples, neverStarted }: RequestLife) => {
    const known = samples.length + neverStarted.reduce((sum, { count }) => sum + count, 0);
    return samples.length + neverStarted.length + (known < n ? 1 : 0);
  };
  const total = requests.reduce((sum, request) => sum + numLanes(request), 0);
  if (total <= MAX_LANES) return requests.flatMap((request) => lanesOf(history, request));
  const chosen = new Set<number>();
  let free = MAX_LANES;
  const take = (index: number, reserve: number) => {
    const count = numLanes(requests[index]!);
    if (chosen.has(index) || count > free - reserve) return;
    chosen.add(index);
    free -= count;
  };
  const byLength = [...requests.keys()].sort(
    (a, b) => lengthOf(requests[b]!) - lengthOf(requests[a]!) || a - b,
  );
  for (const index of byLength) take(index, MAX_LANES * 0.9);
  const rest = [...requests.keys()].filter((index) => !chosen.has(index));
  const restLanes = rest.reduce((sum, index) => sum + numLanes(requests[index]!), 0);
  const wanted = Math.floor((rest.length * free) / Math.max(1, restLanes));
  for (let i = 0; i < wanted; i += 1) take(rest[Math.floor((i * rest.length) / wanted)]!, 0);
  const shown = [...chosen].sort((a, b) => a - b);
  // A single request of very many samples is shown by its first ones.
  const lanes = (shown.length > 0 ? shown : [0]).flatMap((index) => lanesOf(history, requests[index]!));
  notes.push(
    `The timeline shows ${grouped(Math.max(1, shown.length))} of ${grouped(requests.length)} requests: the longest, ` +
      'and others evenly spread by arrival.',
  );
  return lanes.slice(0, MAX_LANES);
}

function lengthOf({ arrivalUs, samples, neverStarted }: RequestLife): number {
  const ends = [
    ...samples.map(({ end }) => end?.timeUs ?? Number.MAX_SAFE_INTEGER),
    ...neverStarted.map(({ end }) => end.timeUs),
  ];
  return ends.reduce((most, us) => Math.max(most, us), arrivalUs) - arrivalUs;
}

/** Segments of one kind that are closer than can be seen become one. Coarser, until all fit. */
function thinSegments(
  lanes: readonly Lane[],
  { startUs, endUs }: { startUs: number; endUs: number },
  notes: string[],
): ReportData['segments'] {
  const count = (merged: Segment[][]) => merged.reduce((sum, segments) => sum + segments.length, 0);
  let merged = lanes.map(({ segments }) => segments);
  const before = count(merged);
  for (let parts = 20_000; count(merged) > MAX_SEGMENTS && parts >= 20; parts /= 10) {
    const gapUs = (endUs - startUs) / parts;
    merged = lanes.map(({ segments }) => mergeCloser(segments, gapUs));
  }
  if (count(merged) < before)
    notes.push('In the timeline, parts of one kind that follow each other closely are drawn as one.');
  return merged.flatMap((segments, lane) =>
    segments.map(({ kind, fromUs, toUs, words }): ReportData['segments'][number] => {
      return [lane, KINDS.indexOf(kind), fromUs, toUs, words];
    }),
  );
}

function mergeCloser(segments: readonly Segment[], gapUs: number): Segment[] {
  const merged: Segment[] = [];
  for (const segment of segments) {
    const last = merged.at(-1);
    const isClose = last !== undefined && segment.fromUs - last.toUs <= gapUs;
    if (isClose && (last.kind === segment.kind || segment.toUs - segment.fromUs <= gapUs)) {
      last.toUs = segment.toUs;
      last.words = 'several parts, drawn as one';
    } else {
      merged.push({ ...segment });
    }
  }
  return merged;
}

function chooseCommands({ commands }: History, notes: string[]): ReportData['commands'] {
  const others = commands.filter(({ type }) => type !== 'AddRequests');
  if (others.length > MAX_COMMANDS) {
    notes.push(
      `Of ${grouped(others.length)} commands other than new requests, the first ${MAX_COMMANDS} are marked in the timeline.`,
    );
  }
  const marks: ReportData['commands'] = [];
  for (const { timeUs, words, code } of others.slice(0, MAX_COMMANDS)) {
    const text = `${words}: ${answerText(code)}`;
    const last = marks.at(-1);
    if (last?.[0] === timeUs) last[1].push(text);
    else marks.push([timeUs, [text]]);
  }
  return marks;
}

const STEP_SERIES = [
  'running',
  'waiting',
  'prefillRows',
  'decodeRows',
  'freeBlocks',
  'cachedBlocks',
  'heldBlocks',
] as const;

/** Steps in groups of equal number, each one point: its values are means, weighted by the steps' times. */
function thinSteps({ steps }: History, notes: string[]): ReportData['steps'] {
  const group = Math.max(1, Math.ceil((steps.count * 1.05) / MAX_POINTS));
  if (group > 1)
    notes.push(
      `Each point of the curves is the mean of ${grouped(group)} steps, weighted by how long they took.`,
    );
  const points: ReportData['steps'] = {
    ...{ timeUs: [], running: [], waiting: [], prefillRows: [], decodeRows: [] },
    ...{ freeBlocks: [], cachedBlocks: [], heldBlocks: [] },
  };
  const totalUs = steps.count === 0 ? 0 : steps.committedUs(steps.count) - steps.beginUs(1);
  for (let first = 1; first <= steps.count; first += group) {
    const last = Math.min(steps.count, first + group - 1);
    points.timeUs.push(steps.beginUs(first));
    const sums = meanOf(steps, first, last);
    for (const name of STEP_SERIES) points[name].push(sums[name]);
    // Nothing is computed between two steps that lie apart.
    const gapUs =
      last < steps.count ? steps.beginUs(last + 1) - steps.committedUs(last) : Number.POSITIVE_INFINITY;
    if (gapUs <= totalUs / 500 && last < steps.count) continue;
    points.timeUs.push(steps.committedUs(last));
    for (const name of STEP_SERIES)
      points[name].push(name === 'prefillRows' || name === 'decodeRows' ? 0 : sums[name]);
  }
  return points;
}

function meanOf(
  steps: History['steps'],
  first: number,
  last: number,
): Record<(typeof STEP_SERIES)[number], number> {
  const sums = {
    running: 0,
    waiting: 0,
    prefillRows: 0,
    decodeRows: 0,
    freeBlocks: 0,
    cachedBlocks: 0,
    heldBlocks: 0,
  };
  let whole = 0;
  for (let step = first; step <= last; step += 1) {
    const row = steps.row(step);
    const weight = Math.max(1, row.committedUs - steps.beginUs(step));
    whole += weight;
    for (const name of STEP_SERIES) {
      const value = name === 'decodeRows' ? row.rows - row.prefillRows : row[name];
      sums[name] += value * weight;
    }
  }
  for (const name of STEP_SERIES) sums[name] = Math.round((sums[name] / whole) * 100) / 100;
  return sums;
}

/** Tokens per second in windows of equal length, and the share of samples that have ended by each window's end. */
function windowsOf(
  { steps, requests }: History,
  { startUs, endUs }: { startUs: number; endUs: number },
): ReportData['windows'] {
  const count = Math.max(1, Math.min(MAX_WINDOWS, Math.floor(steps.count / 4)));
  const widthUs = Math.max(1, (endUs - startUs) / count);
  const windowOf = (us: number) => Math.min(count - 1, Math.max(0, Math.floor((us - startUs) / widthUs)));
  const tokens = new Array<number>(count).fill(0);
  const finished = new Array<number>(count).fill(0);
  const delivered = steps.column('tokens');
  for (let step = 1; step <= steps.count; step += 1)
    tokens[windowOf(steps.committedUs(step))]! += delivered[step - 1]!;
  let samples = 0;
  for (const request of requests) {
    samples += request.n;
    for (const { end } of request.samples) if (end !== null) finished[windowOf(end.timeUs)]! += 1;
    for (const { count: many, end } of request.neverStarted) finished[windowOf(end.timeUs)]! += many;
  }
  let done = 0;
  const shareOf = (number: number) => (samples === 0 ? 0 : Math.round((number / samples) * 10_000) / 100);
  const rates = tokens.map((value) => Math.round((value * 10_000_000) / widthUs) / 10);
  const shares = finished.map((value) => {
    done += value;
    return shareOf(done);
  });
  return {
    timeUs: Array.from({ length: count + 1 }, (_, i) => Math.round(startUs + i * widthUs)),
    tokensPerSecond: [...rates, rates.at(-1)!],
    finishedShare: [0, ...shares],
  };
}
