import { describe, expect, it } from 'vitest';
import { CoreDriver, promptOf } from '../support/core_driver.js';

const abort = (driver: CoreDriver, ...requestIds: number[]) =>
  driver.apply({ type: 'abortRequests', requestIds });

describe('abort', () => {
  it('ends a running request at once and frees its blocks when nothing of it is in flight', async () => {
    const driver = await CoreDriver.create();
    const [id, other] = driver.add({}, {});
    driver.step();
    expect(abort(driver, id!).finishes).toMatchObject([
      { request: id, sample: 0, count: 1, reason: 'abort', code: 'none' },
    ]);
    expect(driver.core.stats()).toMatchObject({ numRunning: 1, numHeldBlocks: 1 });
    driver.run();
    expect(driver.endOf(other!)).toBe('length');
  });

  it('frees the blocks and the slot of an aborted sequence only when its last step is committed', async () => {
    const driver = await CoreDriver.create({ maxStepsInFlight: 2, maxNumSeqs: 1 });
    const [id] = driver.add({});
    driver.schedule();
    driver.schedule();
    abort(driver, id!);
    const [next] = driver.add({ maxTokens: 1 });
    expect(driver.core.stats()).toMatchObject({ numRunning: 0, numHeldBlocks: 1 });
    expect(driver.commit().tokens).toEqual([]);
    expect(driver.schedule()).toBeNull();
    expect(driver.commit().tokens).toEqual([]);
    expect(driver.core.stats()).toMatchObject({ numHeldBlocks: 0, numFreeBlocks: 1000 });
    expect(driver.schedule()!.computed).toMatchObject([{ request: next }]);
  });

  it('passes over ids that are unknown, ended, or named twice', async () => {
    const driver = await CoreDriver.create();
    const [id] = driver.add({});
    expect(abort(driver, 999, id!, id!).finishes).toHaveLength(1);
    const again = abort(driver, id!);
    expect([again.finishes, again.acks.map(({ code }) => code)]).toEqual([[], ['none']]);
  });

  it('lets an id be used again once its request has ended, though a step of the first is still in flight', async () => {
    const driver = await CoreDriver.create({ maxStepsInFlight: 2 });
    driver.add({ id: 7 });
    driver.schedule();
    abort(driver, 7);
    driver.add({ id: 7, promptTokenIds: promptOf(12), maxTokens: 2 });
    driver.run(({ output }) => 90 + output);
    expect(driver.tokensOf(7)).toEqual([90, 91]);
    expect(driver.finishes.map(({ reason }) => reason)).toEqual(['abort', 'length']);
  });

  it('ends a preempted request, and one that is preempted with its token in flight', async () => {
    const driver = await CoreDriver.create({ maxStepsInFlight: 2 });
    const [id] = driver.add({});
    driver.schedule();
    driver.apply({ type: 'resetPrefixCache', force: true });
    expect(abort(driver, id!).finishes).toMatchObject([{ reason: 'abort', preemptions: 1 }]);
    expect(driver.commit().tokens).toEqual([]);
    expect(driver.core.stats()).toMatchObject({ numRequests: 0, numWaiting: 0, numHeldBlocks: 0 });
  });

  it('takes what is left of a group: ended samples stay ended', async () => {
    const driver = await CoreDriver.create();
    const [id] = driver.add({ n: 2, stopTokenIds: [42] });
    driver.step(({ sample }) => (sample === 0 ? 42 : 5));
    abort(driver, id!);
    expect([driver.endOf(id!, 0), driver.endOf(id!, 1)]).toEqual(['stop 42', 'abort']);
  });

  it('ends everything with all', async () => {
    const driver = await CoreDriver.create({ maxNumSeqs: 2 });
    const ids = driver.add({}, {}, {}, {});
    driver.step();
    driver.apply({ type: 'abortRequests', all: true });
    expect(ids.map((id) => driver.endOf(id))).toEqual(['abort', 'abort', 'abort', 'abort']);
    expect(driver.core.stats()).toMatchObject({ numRequests: 0, numHeldBlocks: 0 });
  });
});

describe('pause and resume', () => {
  it('keep: freezes what runs where it stands and goes on from there', async () => {
    const driver = await CoreDriver.create();
    const [id] = driver.add({ maxTokens: 3 });
    driver.step(() => 70);
    expect(driver.ackOf({ type: 'pauseGeneration', mode: 'keep' })).toBe('none');
    expect(driver.schedule()).toBeNull();
    expect(driver.core.stats()).toMatchObject({ paused: true, numRunning: 1, numHeldBlocks: 1 });
    expect(driver.ackOf({ type: 'resumeGeneration' })).toBe('none');
    expect(driver.schedule()!.computed).toMatchObject([{ start: 10, numTokens: 1, tokenIds: [70] }]);
    driver.commit();
    driver.run();
    expect(driver.endOf(id!)).toBe('length');
  });

  it('is acknowledged only when no step is in flight', async () => {
    const driver = await CoreDriver.create({ maxStepsInFlight: 2 });
    driver.add({});
    driver.schedule();
    driver.schedule();
    expect(driver.apply({ type: 'pauseGeneration', mode: 'keep', id: 50 }).acks).toEqual([]);
    expect(driver.commit().acks).toEqual([]);
    expect(driver.commit().acks).toMatchObject([{ command: 50, code: 'none' }]);
  });

  it('retract: what runs waits again, gives its blocks back, and loses no token', async () => {
    const driver = await CoreDriver.create({ maxStepsInFlight: 2 });
    const ids = driver.add({ maxTokens: 4 }, { maxTokens: 4 });
    driver.schedule();
    driver.apply({ type: 'pauseGeneration', mode: 'retract' });
    expect(driver.core.stats()).toMatchObject({ numRunning: 0, numWaiting: 2, numHeldBlocks: 0 });
    driver.commit(({ request }) => 100 + request);
    driver.apply({ type: 'resumeGeneration' });
    driver.run(({ output }) => 200 + output);
    expect(ids.map((id) => driver.tokensOf(id))).toEqual(ids.map((id) => [100 + id, 201, 202, 203]));
  });

  it('abort: ends everything, and what comes later waits for resume', async () => {
    const driver = await CoreDriver.create();
    const [id] = driver.add({});
    driver.step();
    expect(driver.ackOf({ type: 'pauseGeneration', mode: 'abort' })).toBe('none');
    expect(driver.endOf(id!)).toBe('abort');
    const [later] = driver.add({ maxTokens: 1 });
    expect(driver.schedule()).toBeNull();
    driver.apply({ type: 'resumeGeneration' });
    driver.run();
    expect(driver.endOf(later!)).toBe('length');
  });

  it('wait: finishes what runs and waits, holds later requests apart, and is acknowledged at the end', async () => {
    const driver = await CoreDriver.create({ maxNumSeqs: 1 });
    const [running, waiting] = driver.add({ maxTokens: 2 }, { maxTokens: 2 });
    driver.step();
    expect(driver.apply({ type: 'pauseGeneration', mode: 'wait', id: 50 }).acks).toEqual([]);
    const [later] = driver.add({ maxTokens: 2, priority: -5 });
    const acks = [];
    while (driver.next()) acks.push(driver.commit().acks);
    expect([driver.endOf(running!), driver.endOf(waiting!), driver.endOf(later!)]).toEqual([
      'length',
      'length',
      undefined,
    ]);
    expect(acks.slice(0, -1).flat()).toEqual([]);
    expect(acks.at(-1)).toMatchObject([{ command: 50, code: 'none' }]);
    expect(driver.core.stats()).toMatchObject({ paused: true, numWaiting: 1, numRequests: 1 });
    driver.apply({ type: 'resumeGeneration' });
    driver.run();
    expect(driver.endOf(later!)).toBe('length');
  });

  it('wait: is acknowledged at once when nothing is live', async () => {
    const driver = await CoreDriver.create();
    expect(driver.ackOf({ type: 'pauseGeneration', mode: 'wait' })).toBe('none');
  });

  it('wait: is over when what it waits for is aborted', async () => {
    const driver = await CoreDriver.create();
    const [id] = driver.add({});
    driver.step();
    driver.apply({ type: 'pauseGeneration', mode: 'wait', id: 50 });
    expect(abort(driver, id!).acks.map(({ command }) => command)).toContain(50);
  });

  it('acknowledges several pauses together', async () => {
    const driver = await CoreDriver.create();
    driver.add({});
    driver.schedule();
    driver.apply({ type: 'pauseGeneration', mode: 'wait', id: 50 });
    driver.apply({ type: 'pauseGeneration', mode: 'keep', id: 51 });
    expect(driver.commit().acks.map(({ command, code }) => [command, code])).toEqual([
      [50, 'none'],
      [51, 'none'],
    ]);
  });

  it('tells a pause that has not come true that resume was faster', async () => {
    const driver = await CoreDriver.create();
    const [id] = driver.add({ maxTokens: 2 });
    driver.schedule();
    driver.apply({ type: 'pauseGeneration', mode: 'keep', id: 50 });
    const { acks } = driver.apply({ type: 'resumeGeneration', id: 51 });
    expect(acks.map(({ command, code }) => [command, code])).toEqual([
      [50, 'not_paused'],
      [51, 'none'],
    ]);
    driver.run();
    expect(driver.endOf(id!)).toBe('length');
  });

  it('refuses more pauses at once than it keeps, and keeps the others', async () => {
    const driver = await CoreDriver.create();
    driver.add({});
    driver.schedule();
    const codes = Array.from({ length: 17 }, (_, i) =>
      driver.apply({ type: 'pauseGeneration', mode: 'keep', id: 100 + i }).acks.map(({ code }) => code),
    );
    expect(codes.flat()).toEqual(['command_in_progress']);
    expect(driver.commit().acks).toHaveLength(16);
  });
});
