// One trace, several machines: other versions of Node, other tiers of V8's compilers. Everything that the core does must be equal.

import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Engine } from '../../dist/index.js';
import { nodeVersions } from '../../scripts/node_versions.mjs';
import { repositoryPath } from '../house/files.js';

const folder = mkdtempSync(join(tmpdir(), 'kadenz-determinism-'));
const trace = join(folder, 'run.kdz');
afterAll(() => rmSync(folder, { recursive: true }));

/** WebAssembly by the baseline compiler alone, by the optimising one alone, and both with JavaScript never optimised. */
const TIERS = [[], ['--liftoff-only', '--no-opt', '--no-sparkplug'], ['--no-liftoff'], ['--always-turbofan']];

function digestsOf(node: string, flags: readonly string[]) {
  const script = repositoryPath('test/trace/digest_trace.mjs');
  const line = execFileSync(node, [...flags, script, trace], { encoding: 'utf8' });
  return JSON.parse(line) as { steps: number; problem: unknown } & Record<string, string>;
}

/** A small pool and few slots: preemptions, cache hits and fan-outs; a pause and a reset on the way. */
async function recordBusyRun(): Promise<number> {
  const options = { maxNumSeqs: 12, kvCacheBlocks: 24, maxModelLen: 200, maxNumBatchedTokens: 48 };
  const engine = await Engine.create({
    model: repositoryPath('models/arithmetic'),
    ...options,
    record: trace,
  });
  const request = (i: number) => ({
    promptTokenIds: Array.from({ length: 20 + ((i * 13) % 40) }, (_, at) => 3 + ((at * (1 + (i % 4))) % 60)),
    n: 1 + (i % 4),
    maxTokens: 20 + ((i * 7) % 50),
    ignoreEos: i % 2 === 0,
    priority: i % 3,
  });
  const first = engine.generate(Array.from({ length: 20 }, (_, i) => request(i)));
  await engine.pause('retract');
  await engine.resume();
  await engine.resetPrefixCache({ force: true });
  const second = engine.generate(Array.from({ length: 20 }, (_, i) => request(20 + i)));
  await Promise.all([first, second]);
  const { numPreemptions } = await engine.stats();
  await engine.close();
  return numPreemptions;
}

describe('the same trace', () => {
  let expected: ReturnType<typeof digestsOf>;
  beforeAll(async () => {
    expect(await recordBusyRun()).toBeGreaterThan(5);
    expected = digestsOf(process.execPath, []);
    expect(expected.problem).toBeNull();
    expect(expected.steps).toBeGreaterThan(100);
  });

  it('gives equal instructions, outputs and memory on Node 20, 22 and 24, in every tier of V8', () => {
    const versions = nodeVersions();
    expect(versions.map(({ version }) => version.split('.')[0])).toEqual(
      expect.arrayContaining(['22', '24']),
    );
    for (const { version, path } of versions) {
      for (const flags of TIERS) {
        expect({ version, flags, ...digestsOf(path, flags) }).toEqual({ version, flags, ...expected });
      }
    }
  }, 300_000);
});
