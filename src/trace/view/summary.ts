// A run in numbers: what `kadenz trace show` prints and the report's head says.

import type { History } from '../history/history.js';

export interface Bin {
  /** [from, to] */
  from: number;
  to: number;
  /** Of the time in steps. */
  share: number;
}

export interface Summary {
  trace: string;
  /** whole, cut, corrupt, parted or core_stopped; the sentence says more. */
  ending: string;
  endingSentence: string | null;
  kadenzVersion: string;
  coreSha256: string;
  /** Whether this core is the one that recorded it. */
  sameCore: boolean;
  model: string;
  host: string;
  createdUnixMs: number;
  requests: number;
  samples: number;
  /** Samples by how they ended: stop, length, abort, error, refused, unfinished. */
  ends: Record<string, number>;
  generatedTokens: number;
  promptTokens: number;
  cachedPromptTokens: number;
  /** null without prompts. */
  prefixHitShare: number | null;
  computedRows: number;
  /** Computed once more, after a preemption. */
  recomputedRows: number;
  preemptions: number;
  steps: number;
  controlSteps: number;
  stepsInFlight: number;
  commands: number;
  /** From the first request (or step) to the last event. */
  wallUs: number;
  /** In steps that compute. */
  busyUs: number;
  tokensPerSecond: number | null;
  meanSequences: number | null;
  peakSequences: number;
  /** From the end of the sample that completes 90 % of them to the last one's end, as a share of the wall time. */
  tailAfter90Share: number | null;
  /** Time in steps with less than half of the peak batch, as a share of the time in steps. */
  belowHalfPeakShare: number | null;
  numBlocks: number;
  peakHeldBlocks: number;
  sequencesHistogram: Bin[];
  heldBlocksHistogram: Bin[];
}

export function summaryOf(history: History): Summary {
  const { header, steps, stats, config, end } = history;
  const times = timesOf(history);
  const { samples, ends, endTimes } = endsOf(history);
  const sequences = steps.column('sequences');
  const held = steps.column('heldBlocks');
  const peakHeldBlocks = held.reduce((most, value) => Math.max(most, value), 0);
  const peakSequences = sequences.reduce((most, value) => Math.max(most, value), 0);
  const weighted = sequences.reduce((sum, value, i) => sum + value * times.weights[i]!, 0);
  const belowHalf = times.weights.reduce(
    (sum, weight, i) => sum + (sequences[i]! < peakSequences / 2 ? weight : 0),
    0,
  );
  const share = (part: number, whole: number) => (whole === 0 ? null : part / whole);
  return {
    trace: history.path,
    ending: end.kind,
    endingSentence: end.sentence,
    kadenzVersion: header.kadenzVersion,
    coreSha256: header.coreSha256,
    sameCore: header.coreSha256 === history.coreSha256,
    model: header.model,
    host: header.hostFingerprint,
    createdUnixMs: header.createdUnixMs,
    requests: history.requests.length,
    samples,
    ends,
    generatedTokens: stats.generationTokens,
    promptTokens: stats.promptTokens,
    cachedPromptTokens: stats.cachedPromptTokens,
    prefixHitShare: share(stats.cachedPromptTokens, stats.promptTokens),
    computedRows: stats.computedTokens,
    recomputedRows: history.recomputedRows,
    preemptions: stats.numPreemptions,
    steps: steps.count,
    controlSteps: steps.column('work').reduce((sum, work) => sum + (work === 0 ? 0 : 1), 0),
    stepsInFlight: history.stepsInFlight,
    commands: history.commands.length,
    wallUs: times.lastUs - times.firstUs,
    busyUs: times.busyUs,
    tokensPerSecond: share(stats.generationTokens * 1_000_000, times.lastUs - times.firstUs),
    meanSequences: share(weighted, times.busyUs),
    peakSequences,
    tailAfter90Share: share(tailUs(endTimes), times.lastUs - times.firstUs),
    belowHalfPeakShare: share(belowHalf, times.busyUs),
    numBlocks: config.numBlocks,
    peakHeldBlocks,
    sequencesHistogram: histogram(sequences, times.weights, Math.max(peakSequences, 1), 1),
    heldBlocksHistogram: histogram(held, times.weights, Math.max(peakHeldBlocks, 1), 0),
  };
}

/** How long each step took; 0 for control instructions. */
function timesOf(history: History) {
  const { steps } = history;
  const work = steps.column('work');
  const weights = Array.from(work, (kind, i) =>
    kind === 0 ? Math.max(0, steps.committedUs(i + 1) - steps.beginUs(i + 1)) : 0,
  );
  return { weights, busyUs: weights.reduce((sum, weight) => sum + weight, 0), ...runSpan(history) };
}

/**
 * From the first request, or what is computed before it, to the last thing that happens to one. An engine that is closed long after its
 * work was done has not worked all that time.
 */
export function runSpan({ steps, requests }: History): { firstUs: number; lastUs: number } {
  const work = steps.column('work');
  const [first, last] = [work.indexOf(0) + 1, work.lastIndexOf(0) + 1];
  let firstUs = requests[0]?.arrivalUs ?? Number.POSITIVE_INFINITY;
  if (first > 0) firstUs = Math.min(firstUs, steps.beginUs(first));
  if (firstUs === Number.POSITIVE_INFINITY) return { firstUs: 0, lastUs: 0 };
  let lastUs = last > 0 ? steps.committedUs(last) : firstUs;
  for (const { arrivalUs, samples, neverStarted } of requests) {
    lastUs = Math.max(lastUs, arrivalUs);
    for (const { end } of [...samples, ...neverStarted]) lastUs = Math.max(lastUs, end?.timeUs ?? 0);
  }
  return { firstUs, lastUs };
}

const END_NAMES = ['stop', 'length', 'abort', 'error', 'refused', 'unfinished'];

function endsOf({ requests }: History) {
  const counts: Record<string, number> = {};
  const endTimes: number[] = [];
  let samples = 0;
  const count = (name: string, number: number) => {
    counts[name] = (counts[name] ?? 0) + number;
  };
  for (const request of requests) {
    let known = 0;
    for (const { end } of request.samples) {
      if (end === null) continue;
      known += 1;
      count(end.reason, 1);
      endTimes.push(end.timeUs);
    }
    for (const { count: number, end } of request.neverStarted) {
      known += number;
      count(end.step === null && end.reason === 'error' ? 'refused' : end.reason, number);
    }
    count('unfinished', request.n - known);
    samples += request.n;
  }
  const ends = Object.fromEntries(
    END_NAMES.map((name) => [name, counts[name] ?? 0]).filter(([, number]) => number !== 0),
  );
  return { samples, ends: ends as Record<string, number>, endTimes };
}

function tailUs(endTimes: number[]): number {
  if (endTimes.length === 0) return 0;
  const sorted = endTimes.toSorted((a, b) => a - b);
  return sorted.at(-1)! - sorted[Math.ceil(sorted.length * 0.9) - 1]!;
}

const MAX_BINS = 10;

/** Bins of whole numbers from `least` to `most`, all of one width but the last. */
function histogram(values: Uint32Array, weights: readonly number[], most: number, least: number): Bin[] {
  const total = values.reduce((sum, value, i) => sum + (value < least ? 0 : weights[i]!), 0);
  if (total === 0) return [];
  const width = Math.ceil((most - least + 1) / MAX_BINS);
  const bins: Bin[] = [];
  for (let from = least; from <= most; from += width)
    bins.push({ from, to: Math.min(most, from + width - 1), share: 0 });
  for (const [i, value] of values.entries()) {
    if (value < least) continue;
    const bin = bins[Math.floor((Math.min(value, most) - least) / width)]!;
    bin.share += weights[i]! / total;
  }
  return bins;
}
