// Weights, memory, adapters, groups and shutdown: what the state allows, and what it does with requests.
import { describe, expect, it } from 'vitest';
import { CoreDriver, promptOf } from '../support/core_driver.js';

const begin = { type: 'beginWeightUpdate' } as const;
const finish = (version: number, succeeded = true) =>
  ({ type: 'finishWeightUpdate', version, succeeded }) as const;
const release = (...tags: ('kv_cache' | 'weights')[]) => ({ type: 'releaseMemory', tags }) as const;
const resume = (...tags: ('kv_cache' | 'weights')[]) => ({ type: 'resumeMemory', tags }) as const;
const load = (adapter: number) => ({ type: 'loadAdapter', adapter, name: 'a', path: '/a' }) as const;

describe('weight updates', () => {
  it('are refused while requests run and nothing is paused', async () => {
    const driver = await CoreDriver.create();
    driver.add({});
    expect(driver.ackOf(begin)).toBe('requests_running');
    driver.apply({ type: 'pauseGeneration', mode: 'wait' });
    expect(driver.ackOf(begin)).toBe('requests_running');
    driver.apply({ type: 'pauseGeneration', mode: 'keep' });
    expect(driver.ackOf(begin)).toBeNull();
  });

  it('are acknowledged when the host has carried them out, and change the version then', async () => {
    const driver = await CoreDriver.create();
    expect(driver.ackOf(begin)).toBeNull();
    expect(driver.control().acks).toMatchObject([{ code: 'none' }]);
    expect(driver.core.stats()).toMatchObject({ updatingWeights: true, weightVersion: 0 });
    expect(driver.ackOf(finish(3))).toBeNull();
    expect(driver.core.stats().weightVersion).toBe(0);
    driver.control();
    expect(driver.core.stats()).toMatchObject({ updatingWeights: false, weightVersion: 3 });
  });

  it('wait until nothing is in flight, and nothing is planned while they wait or run', async () => {
    const driver = await CoreDriver.create({ maxStepsInFlight: 2 });
    driver.add({});
    driver.schedule();
    driver.apply({ type: 'pauseGeneration', mode: 'keep' });
    driver.apply(begin);
    expect(driver.next()).toBeNull();
    driver.commit();
    expect(driver.next()).toMatchObject({ type: 'beginWeightUpdate' });
    driver.apply(finish(1));
    expect(driver.next()).toBeNull();
  });

  it('only raise the version', async () => {
    const driver = await CoreDriver.create();
    driver.apply(begin);
    driver.apply(finish(5));
    driver.apply(begin);
    const { acks } = driver.apply(finish(5));
    expect(acks).toMatchObject([{ code: 'weight_version_not_monotonic', value: 5, limit: 5 }]);
    expect(driver.ackOf(finish(6))).toBeNull();
  });

  it('follow one another: begin twice is in progress, finish without begin is none', async () => {
    const driver = await CoreDriver.create();
    expect(driver.ackOf(finish(1))).toBe('no_weight_update');
    driver.apply(begin);
    expect(driver.ackOf(begin)).toBe('weight_update_in_progress');
    expect(driver.ackOf({ type: 'resumeGeneration' })).toBe('weight_update_in_progress');
  });

  it('refuse requests meanwhile, unless generation is paused: then they queue', async () => {
    const driver = await CoreDriver.create();
    driver.apply(begin);
    expect(driver.addRefused({}).code).toBe('weights_unavailable');
    driver.apply({ type: 'pauseGeneration', mode: 'keep' });
    const [id] = driver.add({ maxTokens: 1 });
    driver.apply(finish(1));
    driver.control();
    driver.control();
    driver.apply({ type: 'resumeGeneration' });
    expect(driver.step().plan.weightVersion).toBe(1);
    expect(driver.endOf(id!)).toBe('length');
  });

  it('that fail leave the weights unusable until one succeeds', async () => {
    const driver = await CoreDriver.create();
    driver.add({ maxTokens: 2 });
    driver.step();
    driver.apply({ type: 'pauseGeneration', mode: 'keep' });
    driver.apply(begin);
    driver.apply(finish(1, false));
    driver.control();
    driver.control();
    expect(driver.core.stats()).toMatchObject({ weightsUsable: false, weightVersion: 0 });
    expect(driver.addRefused({}).code).toBe('weights_unavailable');
    expect(driver.ackOf({ type: 'resumeGeneration' })).toBe('weights_unavailable');
    driver.apply(begin);
    driver.apply(finish(1));
    driver.control();
    driver.control();
    expect(driver.ackOf({ type: 'resumeGeneration' })).toBe('none');
    expect(driver.run()).toHaveLength(1);
  });

  it('that the host fails are acknowledged with its code; what was begun is begun no more', async () => {
    const driver = await CoreDriver.create();
    driver.apply(begin);
    expect(driver.control('step_failed').acks).toMatchObject([{ code: 'step_failed' }]);
    expect(driver.core.stats().updatingWeights).toBe(false);
    driver.apply(begin);
    driver.control();
    driver.apply(finish(1));
    driver.control('step_failed');
    expect(driver.core.stats()).toMatchObject({ weightsUsable: false, weightVersion: 0 });
    driver.apply(begin);
    driver.apply(finish(1));
    driver.control();
    driver.control();
    expect(driver.core.stats()).toMatchObject({ weightsUsable: true, weightVersion: 1 });
  });
});

describe('memory', () => {
  it('of the KV cache: released with requests running, they wait, and are computed anew after resume', async () => {
    const driver = await CoreDriver.create();
    const promptTokenIds = promptOf(40);
    const [id] = driver.add({ promptTokenIds, maxTokens: 4 });
    driver.step(() => 70);
    driver.apply(release('kv_cache'));
    expect(driver.core.stats()).toMatchObject({ numRunning: 0, numWaiting: 1, numFreeBlocks: 1000 });
    driver.control();
    expect(driver.schedule()).toBeNull();
    driver.apply(resume('kv_cache'));
    driver.control();
    expect(driver.step(() => 71).computed).toMatchObject([{ start: 0, numTokens: 41 }]);
    driver.run(() => 72);
    expect(driver.tokensOf(id!)).toEqual([70, 71, 72, 72]);
  });

  it('is not given away under a step in flight', async () => {
    const driver = await CoreDriver.create({ maxStepsInFlight: 2 });
    const [id] = driver.add({ maxTokens: 1 });
    driver.schedule();
    driver.apply(release('kv_cache'));
    expect(driver.next()).toBeNull();
    driver.commit();
    expect(driver.endOf(id!)).toBe('length');
    expect(driver.next()).toMatchObject({ type: 'releaseMemory', tags: ['kv_cache'] });
  });

  it('of the KV cache: nothing of before is hit, not even what an aborted sequence had in flight', async () => {
    const driver = await CoreDriver.create({ maxStepsInFlight: 2 });
    const promptTokenIds = promptOf(40);
    driver.add({ promptTokenIds });
    driver.schedule();
    driver.apply({ type: 'abortRequests', all: true });
    driver.apply(release('kv_cache'));
    driver.commit();
    driver.control();
    driver.apply(resume('kv_cache'));
    driver.control();
    const [id] = driver.add({ promptTokenIds });
    driver.step();
    expect(driver.cachedTokensOf(id!)).toBe(0);
  });

  it('aborts what runs when told to', async () => {
    const driver = await CoreDriver.create();
    const ids = driver.add({}, {});
    driver.step();
    driver.apply({ ...release('kv_cache'), abortRunning: true });
    expect(ids.map((id) => driver.endOf(id))).toEqual(['abort', 'abort']);
  });

  it('released refuses requests, or queues them when paused', async () => {
    const driver = await CoreDriver.create();
    driver.apply(release('kv_cache', 'weights'));
    driver.control();
    expect(driver.addRefused({})).toMatchObject({ code: 'memory_released' });
    driver.apply({ type: 'pauseGeneration', mode: 'keep' });
    const [id] = driver.add({ maxTokens: 1 });
    driver.apply({ type: 'resumeGeneration' });
    expect(driver.schedule()).toBeNull();
    driver.apply(resume('weights'));
    driver.control();
    expect(driver.schedule()).toBeNull();
    driver.apply(resume('kv_cache'));
    driver.control();
    driver.run();
    expect(driver.endOf(id!)).toBe('length');
  });

  it('has tags that are released and resumed one by one, each in its turn', async () => {
    const driver = await CoreDriver.create();
    expect(driver.ackOf(release())).toBe('invalid_argument');
    expect(driver.ackOf(resume())).toBe('invalid_argument');
    expect(driver.ackOf(resume('weights'))).toBe('memory_not_released');
    driver.apply(release('weights'));
    expect(driver.ackOf(release('weights', 'kv_cache'))).toBe('memory_released');
    expect(driver.ackOf(resume('weights', 'kv_cache'))).toBe('memory_not_released');
    expect(driver.ackOf(release('kv_cache'))).toBeNull();
    expect(driver.core.stats().released).toEqual(['kv_cache', 'weights']);
    expect(driver.ackOf(begin)).toBe('memory_released');
  });

  it('accepts resume right behind release and carries both out in order', async () => {
    const driver = await CoreDriver.create();
    driver.apply(release('kv_cache'));
    driver.apply(resume('kv_cache'));
    expect(driver.next()).toMatchObject({ type: 'releaseMemory' });
    expect(driver.next()).toBeNull();
    driver.commit();
    expect(driver.next()).toMatchObject({ type: 'resumeMemory' });
    driver.commit();
    expect(driver.core.stats().released).toEqual([]);
  });

  it('that the host could not release or resume is as it was before', async () => {
    const driver = await CoreDriver.create();
    driver.apply(release('kv_cache'));
    expect(driver.control('step_failed').acks).toMatchObject([{ code: 'step_failed' }]);
    expect(driver.core.stats().released).toEqual([]);
    driver.apply(release('kv_cache'));
    driver.control();
    driver.apply(resume('kv_cache'));
    driver.control('step_failed');
    expect(driver.core.stats().released).toEqual(['kv_cache']);
  });
});

describe('commands behind one that the host fails', () => {
  it('fail with it, so that a resume behind a failed release does not stop generation for good', async () => {
    const driver = await CoreDriver.create();
    driver.add({ maxTokens: 1 });
    driver.apply({ ...release('kv_cache'), id: 50 });
    driver.apply({ ...resume('kv_cache'), id: 51 });
    expect(driver.control('step_failed').acks.map(({ command, code }) => [command, code])).toEqual([
      [50, 'step_failed'],
      [51, 'step_failed'],
    ]);
    expect(driver.core.stats().released).toEqual([]);
    expect(driver.run()).toHaveLength(1);
  });

  it('leave the weights usable when an update never began, and unusable when it was not finished', async () => {
    const driver = await CoreDriver.create();
    driver.apply(begin);
    driver.apply(finish(1));
    driver.control('step_failed');
    expect(driver.core.stats()).toMatchObject({ updatingWeights: false, weightsUsable: true });
    driver.apply(begin);
    driver.apply(finish(1));
    driver.apply(begin);
    driver.apply(finish(2));
    driver.control();
    driver.control('step_failed');
    expect(driver.core.stats()).toMatchObject({ updatingWeights: false, weightsUsable: false });
    driver.apply(begin);
    driver.apply(finish(1));
    driver.control();
    driver.control();
    expect(driver.core.stats()).toMatchObject({ weightsUsable: true, weightVersion: 1 });
  });

  it('do not stop a shutdown', async () => {
    const driver = await CoreDriver.create();
    driver.apply(release('kv_cache'));
    driver.apply(resume('kv_cache'));
    driver.apply({ type: 'shutdown', id: 52 });
    driver.control('step_failed');
    expect(driver.control().acks).toMatchObject([{ command: 52, code: 'none' }]);
  });
});

describe('adapters', () => {
  it('can be named by requests from the moment that they are accepted', async () => {
    const driver = await CoreDriver.create();
    expect(driver.addRefused({ adapter: 3 })).toMatchObject({ code: 'unknown_adapter', value: 3 });
    driver.apply(load(3));
    driver.add({ adapter: 3 });
    expect(driver.control().acks).toMatchObject([{ code: 'none' }]);
    expect(driver.step().plan.opens[0]!.adapter).toBe(3);
  });

  it('that fail to load end the requests that named them', async () => {
    const driver = await CoreDriver.create();
    driver.apply(load(3));
    const [named, other] = driver.add({ adapter: 3, n: 2 }, { maxTokens: 1 });
    driver.control('step_failed');
    expect(driver.endOf(named!, 1)).toBe('error unknown_adapter');
    driver.run();
    expect(driver.endOf(other!)).toBe('length');
  });

  it('have numbers from 1 and are loaded once', async () => {
    const driver = await CoreDriver.create();
    expect(driver.ackOf(load(0))).toBe('invalid_argument');
    driver.apply(load(1));
    expect(driver.ackOf(load(1))).toBe('adapter_exists');
    expect(driver.ackOf({ type: 'unloadAdapter', adapter: 2 })).toBe('unknown_adapter');
  });

  it('stay while a live request names them', async () => {
    const driver = await CoreDriver.create();
    driver.apply(load(1));
    driver.control();
    driver.add({ adapter: 1, maxTokens: 1 });
    expect(driver.ackOf({ type: 'unloadAdapter', adapter: 1 })).toBe('adapter_in_use');
    driver.run();
    expect(driver.ackOf({ type: 'unloadAdapter', adapter: 1 })).toBeNull();
    driver.control();
    expect(driver.addRefused({ adapter: 1 }).code).toBe('unknown_adapter');
  });

  it('number at most 64, even when unloads fail behind loads', async () => {
    const driver = await CoreDriver.create();
    for (let adapter = 1; adapter <= 64; adapter++) {
      driver.apply(load(adapter));
      driver.control();
    }
    expect(driver.apply(load(65)).acks).toMatchObject([{ code: 'too_many_adapters', limit: 64 }]);
    driver.apply({ type: 'unloadAdapter', adapter: 1 });
    driver.apply({ ...load(65), id: 900 });
    expect(driver.control('step_failed').acks.map(({ code }) => code)).toEqual([
      'step_failed',
      'step_failed',
    ]);
    expect(driver.next()).toBeNull();
    expect(driver.ackOf(load(65))).toBe('too_many_adapters');
  });
});

describe('parallel groups and shutdown', () => {
  it('changes groups between requests only, and to sizes of at least one', async () => {
    const driver = await CoreDriver.create();
    expect(driver.ackOf({ type: 'setParallelGroups', tensorParallelSize: 0 })).toBe('invalid_argument');
    driver.add({ maxTokens: 1 });
    expect(driver.ackOf({ type: 'setParallelGroups' })).toBe('requests_running');
    driver.run();
    expect(driver.ackOf({ type: 'setParallelGroups', tensorParallelSize: 2, rank: 1 })).toBeNull();
    expect(driver.next()).toMatchObject({ type: 'setParallelGroups', tensorParallelSize: 2, rank: 1 });
  });

  it('shuts down: ends everything, tells the host, and refuses what comes later', async () => {
    const driver = await CoreDriver.create({ maxStepsInFlight: 2 });
    const [running] = driver.add({});
    driver.schedule();
    expect(driver.ackOf({ type: 'shutdown' })).toBeNull();
    expect(driver.endOf(running!)).toBe('abort');
    expect(driver.addRefused({}).code).toBe('shut_down');
    expect(driver.ackOf({ type: 'resumeGeneration' })).toBe('shut_down');
    expect(driver.next()).toBeNull();
    driver.commit();
    expect(driver.control().acks).toMatchObject([{ code: 'none' }]);
    expect(driver.core.stats()).toMatchObject({ shutDown: true, numHeldBlocks: 0 });
    expect(driver.next()).toBeNull();
  });

  it('queues up to 64 control commands', async () => {
    const driver = await CoreDriver.create();
    const codes = Array.from({ length: 65 }, () => driver.ackOf({ type: 'setParallelGroups' }));
    expect(codes.slice(0, 64)).toEqual(new Array(64).fill(null));
    expect(codes[64]).toBe('command_in_progress');
  });
});
