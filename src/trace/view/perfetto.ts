// `kadenz trace export --perfetto`: the run in Chrome's trace event format (JSON object form), which Perfetto's UI opens.
//
// Process 1 is the engine: a track of its steps, one of its commands, counters of sequences and blocks. Each request is a process of its own
// with a track of its own; where it has several samples, each is a further track below. Times are microseconds since the recording began.
// Written event by event: a long run's text is larger than a string may be.

import { Work } from '../../generated/index.js';
import type { History } from '../history/history.js';
import { spacedName } from '../history/history_commands.js';
import type { RequestLife } from '../history/history_requests.js';
import { type Lane, lanesOf } from './lanes.js';
import { answerText, range } from './text.js';

export interface PerfettoEvent {
  /** X: a span. C: a counter's value. i: a moment. M: a name. */
  ph: 'X' | 'C' | 'i' | 'M';
  name: string;
  pid: number;
  tid: number;
  ts: number;
  dur?: number;
  cat?: string;
  /** Of a moment: whose height it takes, p for its process. */
  s?: 'p' | 't';
  args?: Record<string, string | number | null>;
}

const ENGINE = 1;
const STEPS = 1;
const COMMANDS = 2;

/** The pieces of the file, in order. */
export function* perfettoJson(history: History): Generator<string> {
  const { header, path } = history;
  const about = {
    trace: path,
    kadenz_version: header.kadenzVersion,
    core_sha256: header.coreSha256,
    model: header.model,
    host: header.hostFingerprint,
  };
  yield `{"displayTimeUnit":"ms","otherData":${JSON.stringify(about)},"traceEvents":[\n`;
  let isFirst = true;
  for (const event of perfettoEvents(history)) {
    yield (isFirst ? '' : ',\n') + JSON.stringify(event);
    isFirst = false;
  }
  yield '\n]}\n';
}

export function* perfettoEvents(history: History): Generator<PerfettoEvent> {
  yield* named(ENGINE, STEPS, { process: 'engine', thread: 'steps', sort: 0 });
  yield* named(ENGINE, COMMANDS, { thread: 'commands', sort: 1 });
  yield* stepEvents(history);
  yield* commandEvents(history);
  // Tracks of a request: process numbers and thread numbers are each unique in the whole trace, as a machine's are.
  let tid = COMMANDS;
  for (const [index, request] of history.requests.entries()) {
    const lanes = lanesOf(history, request);
    yield* requestEvents(request, lanes, { pid: ENGINE + 1 + index, firstTid: tid + 1 });
    tid += 1 + lanes.length;
  }
}

function* named(
  pid: number,
  tid: number,
  { process, thread, sort }: { process?: string; thread: string; sort: number },
): Generator<PerfettoEvent> {
  const meta = { ph: 'M', pid, tid, ts: 0 } as const;
  if (process !== undefined) {
    yield { ...meta, name: 'process_name', args: { name: process } };
    yield { ...meta, name: 'process_sort_index', args: { sort_index: pid } };
  }
  yield { ...meta, name: 'thread_name', args: { name: thread } };
  yield { ...meta, name: 'thread_sort_index', args: { sort_index: sort } };
}

function* stepEvents({ steps, stats, end }: History): Generator<PerfettoEvent> {
  const counter = (name: string, ts: number, value: number): PerfettoEvent => ({
    ...{ ph: 'C', name, pid: ENGINE, tid: STEPS, ts },
    args: { value },
  });
  let cursor = 0;
  for (let step = 1; step <= steps.count; step += 1) {
    const row = steps.row(step);
    const ts = Math.max(cursor, steps.beginUs(step));
    cursor = Math.max(ts, row.committedUs);
    yield {
      ph: 'X',
      name: row.work === 0 ? `step ${step}` : spacedName(Work[row.work] ?? 'control'),
      cat: row.work === 0 ? 'step' : 'control',
      ...{ pid: ENGINE, tid: STEPS, ts, dur: cursor - ts },
      args: {
        ...{ step, rows: row.rows, sequences: row.sequences, prefill_rows: row.prefillRows },
        ...{ decode_rows: row.rows - row.prefillRows, tokens: row.tokens, preemptions: row.preemptions },
        planned_us: row.plannedUs,
      },
    };
    yield counter('running', ts, row.running);
    yield counter('waiting', ts, row.waiting);
    yield counter('free blocks', ts, row.freeBlocks);
    yield counter('cached blocks', ts, row.cachedBlocks);
    yield counter('held blocks', ts, row.heldBlocks);
  }
  const ts = Math.max(cursor, end.timeUs);
  yield counter('running', ts, stats.numRunning);
  yield counter('waiting', ts, stats.numWaiting);
  yield counter('free blocks', ts, stats.numFreeBlocks);
  yield counter('cached blocks', ts, stats.numCachedBlocks);
  yield counter('held blocks', ts, stats.numHeldBlocks);
}

function* commandEvents({ commands }: History): Generator<PerfettoEvent> {
  let ts = 0;
  for (const { timeUs, words, code, preemptions } of commands) {
    ts = Math.max(ts, timeUs);
    yield {
      ...{ ph: 'i', name: words, cat: 'command', pid: ENGINE, tid: COMMANDS, ts, s: 't' },
      args: { answer: answerText(code), preemptions },
    };
  }
}

function* requestEvents(
  request: RequestLife,
  lanes: readonly Lane[],
  { pid, firstTid }: { pid: number; firstTid: number },
): Generator<PerfettoEvent> {
  const name = `request ${request.id}`;
  yield* named(pid, firstTid, { process: name, thread: name, sort: 0 });
  const about = {
    ...{ prompt_tokens: request.promptTokens, samples: request.n, max_tokens: request.maxTokens },
    ...{ priority: request.priority, cached_tokens: request.cachedTokens },
  };
  if (request.n === 1) {
    for (const lane of lanes) yield* laneEvents(lane, { pid, tid: firstTid }, about);
    return;
  }
  const toUs = Math.max(request.arrivalUs, ...lanes.map((lane) => lane.toUs));
  yield {
    ...{
      ph: 'X',
      name,
      cat: 'request',
      pid,
      tid: firstTid,
      ts: request.arrivalUs,
      dur: toUs - request.arrivalUs,
    },
    args: about,
  };
  for (const [index, lane] of lanes.entries()) {
    const tid = firstTid + 1 + index;
    const thread =
      lane.count === 1 ? `sample ${lane.first}` : `samples ${range(lane.first, lane.first + lane.count - 1)}`;
    yield* named(pid, tid, { thread, sort: 1 + index });
    yield* laneEvents(lane, { pid, tid }, {});
  }
}

function* laneEvents(
  { segments, tokens, outcome }: Lane,
  track: { pid: number; tid: number },
  about: Record<string, number>,
): Generator<PerfettoEvent> {
  for (const { kind, fromUs, toUs, words } of segments) {
    const args = { ...about, what: words, tokens, outcome };
    yield { ph: 'X', name: kind, cat: 'request', ...track, ts: fromUs, dur: toUs - fromUs, args };
  }
}
