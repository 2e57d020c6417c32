// The export by the rules of the trace event format: what a viewer may rely on.
import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type History, readHistory } from '../../src/trace/index.js';
import type { PerfettoEvent } from '../../src/trace/view/perfetto.js';
import { runCli } from '../support/run_cli.js';
import { eventfulRun, type RecordedRun, removeRecordings } from './recorded.js';

let run: RecordedRun;
let history: History;
let events: PerfettoEvent[];

beforeAll(async () => {
  run = await eventfulRun();
  history = await readHistory(run.path);
  const path = `${run.path}.json`;
  const { exitCode } = await runCli(['trace', 'export', run.path, '--perfetto', path]);
  expect(exitCode).toBe(0);
  events = JSON.parse(readFileSync(path, 'utf8')).traceEvents;
});

afterAll(removeRecordings);

function grouped<Item, Key>(items: readonly Item[], keyOf: (item: Item) => Key): Map<Key, Item[]> {
  const groups = new Map<Key, Item[]>();
  for (const item of items) groups.set(keyOf(item), [...(groups.get(keyOf(item)) ?? []), item]);
  return groups;
}

const threadName = (pid: number, tid: number) =>
  events.find((event) => event.name === 'thread_name' && event.pid === pid && event.tid === tid)?.args?.name;
const tracks = () =>
  grouped(
    events.filter(({ ph }) => ph === 'X'),
    ({ pid, tid }) => `${pid}/${tid}`,
  );

describe('kadenz trace export --perfetto', () => {
  it('gives every event a phase, a time, a process and a thread, and every thread a name', () => {
    expect(events.length).toBeGreaterThan(500);
    for (const event of events) {
      expect(['X', 'C', 'i', 'M']).toContain(event.ph);
      for (const number of [event.ts, event.pid, event.tid]) expect(Number.isSafeInteger(number)).toBe(true);
      expect(event.ts).toBeGreaterThanOrEqual(0);
      expect(threadName(event.pid, event.tid)).toBeTypeOf('string');
      if (event.ph === 'X') expect(event.dur).toBeGreaterThanOrEqual(0);
      if (event.ph === 'C') expect(Object.values(event.args!).every(Number.isFinite)).toBe(true);
    }
  });

  it('keeps each track in order, with spans that follow one another', () => {
    for (const [track, spans] of tracks()) {
      let end = 0;
      for (const { ts, dur } of spans) {
        expect([track, ts >= end]).toEqual([track, true]);
        end = ts + dur!;
      }
    }
    for (const counter of grouped(
      events.filter(({ ph }) => ph === 'C'),
      ({ name }) => name,
    ).values()) {
      const times = counter.map(({ ts }) => ts);
      expect(times).toEqual(times.toSorted((a, b) => a - b));
    }
  });

  it('uses a thread number for one thread only', () => {
    const owners = grouped(events, ({ tid }) => tid);
    for (const all of owners.values()) expect(new Set(all.map(({ pid }) => pid)).size).toBe(1);
  });

  it('has a span for each step, with its rows', () => {
    const steps = events.filter(({ cat }) => cat === 'step' || cat === 'control');
    expect(steps.map(({ args }) => args!.step)).toEqual(run.plans.map(({ step }) => step));
    for (const [i, plan] of run.plans.entries())
      if (plan.type === 'stepPlan') expect(steps[i]!.args!.rows).toBe(plan.numTokens);
    expect(steps.filter(({ cat }) => cat === 'control').map(({ name }) => name)).toEqual([
      ...['begin weight update', 'finish weight update', 'load adapter'],
    ]);
  });

  it('counts running, waiting and free blocks as the core does', () => {
    const values = (name: string) =>
      events.filter((event) => event.ph === 'C' && event.name === name).map(({ args }) => args!.value);
    expect(values('running').slice(0, -1)).toEqual(run.stats.map(({ numRunning }) => numRunning));
    expect(values('waiting').slice(0, -1)).toEqual(run.stats.map(({ numWaiting }) => numWaiting));
    expect(values('free blocks').slice(0, -1)).toEqual(run.stats.map(({ numFreeBlocks }) => numFreeBlocks));
    expect(values('running').at(-1)).toBe(0);
  });

  it('has a track for each request, and one for each of its samples where it has several', () => {
    const names = events.filter(({ name }) => name === 'thread_name').map(({ args }) => args!.name);
    for (const { id, n, samples } of history.requests) {
      expect(names).toContain(`request ${id}`);
      if (n === 1) continue;
      const pid = events.find(
        ({ name, args }) => name === 'process_name' && args!.name === `request ${id}`,
      )!.pid;
      const threads = events.filter((event) => event.name === 'thread_name' && event.pid === pid);
      expect(threads.length).toBeGreaterThanOrEqual(1 + samples.length);
    }
    const spans = new Set(events.filter(({ cat }) => cat === 'request').map(({ name }) => name));
    for (const kind of ['queued', 'prefill', 'decode', 'preempted']) expect(spans).toContain(kind);
  });

  it('draws as many preemptions as there were', () => {
    const drawn = events.filter(({ name, cat }) => name === 'preempted' && cat === 'request').length;
    expect(drawn).toBe(history.stats.numPreemptions);
  });

  it('marks each command', () => {
    expect(events.filter(({ ph }) => ph === 'i').map(({ name }) => name)).toEqual(
      history.commands.map(({ words }) => words),
    );
  });

  it('says when the file can not be written', async () => {
    const { exitCode, stderr } = await runCli([
      'trace',
      'export',
      run.path,
      '--perfetto',
      '/nowhere/out.json',
    ]);
    expect(exitCode).toBe(1);
    expect(stderr).toContain('(output_failed)');
  });
});
