import { readFileSync } from 'node:fs';
import { Command, Option } from 'commander';
import { describe, expect, it } from 'vitest';
import { deviceProfile } from '../../dist/sim/device_profiles.js';
import { planBroadcast } from '../../dist/sim/plan/broadcast.js';
import { addPlanFlags, runPlan } from '../../dist/sim/plan/command.js';
import { planCase, planFlags, temporaryFile } from './plan_cases.js';

async function plan(flags: Record<string, unknown>): Promise<string> {
  let text = '';
  const exitCode = await runPlan(planFlags(flags), (piece) => {
    text += piece;
  });
  expect(exitCode).toBe(0);
  return text;
}

const planJson = async (flags: Record<string, unknown>) => JSON.parse(await plan({ ...flags, json: true }));
const ROLLOUT = { prompts: 24, n: 4, lengths: 'lognormal:150,1,1500', seed: 9 };

describe('a plan', () => {
  it('is the same text and the same drawing twice, and with any number of threads', async () => {
    const svg = [temporaryFile('a.svg', ''), temporaryFile('b.svg', '')] as const;
    const flags = { ...ROLLOUT, replicas: 6, simulateReplicas: 3, whatIf: ['kv=0.01', 'replicas=2'] };
    const first = await plan({ ...flags, workers: 1, svg: svg[0] });
    expect(await plan({ ...flags, workers: 3, svg: svg[1] })).toBe(first);
    expect(readFileSync(svg[1], 'utf8')).toBe(readFileSync(svg[0], 'utf8'));
    expect(first).toContain('kv=0.01');
  });

  it('has a row for the base and for each value of each what-if', async () => {
    const { cases } = await planJson({
      ...ROLLOUT,
      whatIf: ['n=2,8', 'kv=0.5', 'oversample=1.5', 'max-num-seqs=16', 'replicas=3'],
    });
    expect(cases.map((one: { case: string }) => one.case)).toEqual([
      ...['base', 'n=2', 'n=8', 'kv=0.5', 'oversample=1.5', 'max-num-seqs=16', 'replicas=3'],
    ]);
    const [base, n2, , kv, over, seqs, replicas] = cases;
    expect(n2).toMatchObject({ n: 2, kv_blocks: base.kv_blocks });
    expect(kv.kv_blocks).toBe(Math.floor(base.kv_blocks / 2));
    expect(over).toMatchObject({ n: 4, started_n: 6 });
    expect(over.dropped_tokens).toBeGreaterThan(0);
    expect(seqs).toMatchObject({ max_num_seqs: 16, peak_batch: 16 });
    expect(replicas.time_us).toBeLessThan(base.time_us);
  });

  it('is never later with twice the replicas', async () => {
    const { cases } = await planJson({ ...ROLLOUT, whatIf: ['replicas=2,4,32'] });
    const times = cases.map((one: { time_us: number }) => one.time_us);
    expect(times).toEqual(times.slice().sort((a: number, b: number) => b - a));
    expect(cases.at(-1)).toMatchObject({ replicas: 32, replicas_with_work: 24 });
  });

  it('past the simulated replicas uses the fast model, and says how far that is off', async () => {
    const flags = { ...ROLLOUT, prompts: 60, replicas: 20 };
    const { cases } = await planJson({ ...flags, simulateReplicas: 6 });
    const exact = (await planJson({ ...flags, simulateReplicas: 20 })).cases[0];
    const check = cases[0].fast_model;
    expect(check).toMatchObject({ simulated_replicas: 6 });
    expect(check.factor).toBeCloseTo(1, 2);
    expect(check.largest_error).toBeLessThan(0.01);
    expect(exact.fast_model).toBeNull();
    expect(Math.abs(cases[0].time_us / exact.time_us - 1)).toBeLessThan(0.01);
    expect(await plan({ ...flags, simulateReplicas: 6 })).toMatch(
      /6 replicas ran on the real core.*off by .*% in the mean/,
    );
    expect(await plan({ ...flags, simulateReplicas: 1 })).toContain('can calibrate but not check');
  });

  it('names the same slowest replica, whichever way the others were run', async () => {
    const flags = { prompts: 150, n: 2, lengths: 'lognormal:60,0.8,400', replicas: 150, seed: 1 };
    const exact = (await planJson({ ...flags, simulateReplicas: 150 })).cases[0];
    const fast = (await planJson({ ...flags, simulateReplicas: 4 })).cases[0];
    expect(fast.slowest_replica).toBe(exact.slowest_replica);
    expect(fast.replica_p50_us / exact.replica_p50_us).toBeCloseTo(1, 3);
    expect(fast.idle_share).toBeCloseTo(exact.idle_share, 3);
  });

  it('tells the tail: samples of one length have none, a long one makes it', async () => {
    const even = (await planJson({ prompts: 4, n: 8, lengths: 'fixed:100' })).cases[0];
    expect(even.tail_us).toBe(0);
    const lengths = temporaryFile('tail.txt', `${'100\n'.repeat(31)}2000\n`);
    const odd = (await planJson({ prompts: 8, n: 8, lengths, seed: 3 })).cases[0];
    expect(odd.tail_share).toBeGreaterThan(0.8);
    expect(odd.below_half_batch_share).toBeGreaterThan(0.8);
    // Where half of the samples are long, 90% are not done before these are.
    const half = temporaryFile('half.txt', '100\n2000\n');
    expect((await planJson({ prompts: 8, n: 8, lengths: half })).cases[0].tail_us).toBe(0);
  });

  it('draws a well-formed picture with the names of its cases and panels', async () => {
    const svg = temporaryFile('plan.svg', '');
    await plan({ ...ROLLOUT, svg, whatIf: ['n=2'] });
    const text = readFileSync(svg, 'utf8');
    const open: string[] = [];
    for (const [, closes, name, selfCloses] of text.matchAll(/<(\/?)([a-zA-Z]+)[^>]*?(\/?)>/g)) {
      if (closes) expect(open.pop()).toBe(name);
      else if (!selfCloses) open.push(name!);
    }
    expect(open).toEqual([]);
    expect(text).toMatch(/^<svg [^>]*xmlns="http:\/\/www\.w3\.org\/2000\/svg"/);
    for (const label of [
      'base',
      'n=2',
      'sequences in a step',
      'KV blocks held',
      'samples finished',
      'time until the last sample',
    ]) {
      expect(text).toContain(label);
    }
  });
});

describe('the flags of a plan', () => {
  it.each([
    [{ prompts: undefined }, '--prompts'],
    [{ prompts: 'many' }, '--prompts'],
    [{ prompts: '1.5' }, '--prompts'],
    [{ lengths: undefined }, '--lengths'],
    [{ lengths: 'fixed:x' }, '--lengths'],
    [{ promptLengths: 'lognormal:1' }, '--prompt-lengths'],
    [{ deviceProfile: 'abacus' }, 'abacus'],
    [{ efficiency: '0' }, '--efficiency'],
    [{ dtype: 'int8' }, '--dtype'],
    [{ n: '0' }, '--n'],
    [{ replicas: '100001' }, '--replicas'],
    [{ groupPlacement: 'random' }, '--group-placement'],
    [{ groupPlacement: 'round-robin', replicas: 2, oversample: 2 }, '--group-placement'],
    [{ whatIf: ['colour=3'] }, '--what-if'],
    [{ whatIf: ['n=1,x'] }, '--what-if'],
    [{ whatIf: ['toString=1'] }, '--what-if'],
    [{ weightsLink: 'pigeon' }, '--weights-link'],
    [{ weightsLink: 'ethernet:0' }, '--weights-link'],
    [{ maxNumBatchedTokens: 100 }, '--max-num-batched-tokens'],
    [{ promptLengths: 'fixed:50000' }, '--prompt-lengths'],
    [{ kvBlocks: 4, lengths: 'fixed:1000' }, 'KV pool of 4 blocks'],
    [{ gpuMemoryUtilization: 0.05 }, 'leave no room'],
    [{ prompts: 2 ** 24, n: 4096 }, '--prompts'],
    [{ seed: '-1' }, '--seed'],
  ])('that are wrong are refused by name, in a sentence: %j', async (flags, named) => {
    const refused = plan(flags as Record<string, unknown>);
    await expect(refused).rejects.toMatchObject({ code: 'invalid_argument' });
    await expect(refused).rejects.toThrow(named);
    await expect(refused).rejects.toThrow(/\.$/);
  });

  it('that name a config.json which is not there say so', async () => {
    await expect(plan({ modelConfig: '/no/config.json' })).rejects.toMatchObject({ code: 'input_not_found' });
  });

  it('and a drawing that cannot be written say so', async () => {
    await expect(plan({ svg: '/no/such/folder/plan.svg' })).rejects.toMatchObject({ code: 'output_failed' });
  });

  it('join a command that has some of them already', () => {
    const command = new Command('simulate').addOption(new Option('--seed <n>')).exitOverride();
    addPlanFlags(command);
    command.parse(
      ['--plan', '--what-if', 'n=1', '--what-if', 'kv=2,3', '--seed', '7', '--max-num-seqs', '8'],
      { from: 'user' },
    );
    expect(command.opts()).toMatchObject({
      plan: true,
      whatIf: ['n=1', 'kv=2,3'],
      seed: '7',
      maxNumSeqs: '8',
    });
  });

  it('leave the KV cache what the weights and the largest step do not take', () => {
    const { scheduler, model, device } = planCase();
    const kvBytes = scheduler.numBlocks * 16 * model.kvBytesPerToken;
    const left = device.memoryBytes * 0.9 - kvBytes - model.weightBytes;
    expect(left).toBeGreaterThan(1e9);
    expect(left).toBeLessThan(3e9);
    expect(planCase({ gpuMemoryUtilization: 0.5 }).scheduler.numBlocks).toBeLessThan(
      scheduler.numBlocks / 1.5,
    );
  });
});

describe('the broadcast of weights', () => {
  const link = { local: 'nvlink', networkBytesPerSecond: 50e9 } as const;
  const time = (replicas: number, more: Partial<Parameters<typeof planBroadcast>[1]> = {}) =>
    planBroadcast(
      deviceProfile('h200'),
      { ...link, ...more },
      { weightBytes: 16.4e9, replicas, gpusPerMachine: 8 },
    ).timeUs;

  it('within a machine takes the weights over its link', () => {
    expect(time(8)).toBe(Math.round((16.4e9 / 367e9) * 1e6));
    expect(time(8, { local: 'pcie' })).toBe(Math.round((16.4e9 / 55e9) * 1e6));
    expect(time(1, { local: 'same-gpu' })).toBe(Math.round((16.4e9 / 2.15e12) * 1e6));
  });

  it('over the network takes the weights once by a chain, a chunk more for each machine, and twice by a deep tree at most', () => {
    const once = (16.4e9 / 50e9) * 1e6;
    const chunkUs = (2 ** 24 / 50e9) * 1e6;
    const insideUs = (2 ** 24 / 367e9) * 1e6;
    expect(time(16)).toBe(Math.round(once + chunkUs + insideUs));
    expect(time(24)).toBe(Math.round(once + 2 * chunkUs + insideUs));
    expect(time(100_000)).toBe(Math.round(2 * (once + 13 * chunkUs) + insideUs));
  });

  it('is never faster for more replicas', () => {
    const times = [1, 8, 9, 100, 1000, 10_000, 100_000].map((replicas) => time(replicas));
    expect(times).toEqual(times.slice().sort((a, b) => a - b));
  });
});
