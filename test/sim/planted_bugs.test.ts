// Bugs as they have been made elsewhere, planted one at a time: the simulator must find each within a few runs, and
// the checker that is there for it must be the one that does. Where the core's own walk over its books
// (checkIntegrity) comes first, the bug is planted once more with that walk made blind, so that something outside of
// the core has to see it.

import { describe, expect, it } from 'vitest';
import { runOnce } from '../../dist/sim/run_task.js';
import { buildChangedCore, type Change } from '../support/changed_core.js';

const MOST_RUNS = 40;
const STEPS = 300;

/** checkIntegrity finds nothing any more. */
const BLIND: Change = {
  file: 'integrity.ts',
  from: 'export function firstBrokenRule(c: CoreState): u32 {\n',
  to: 'export function firstBrokenRule(c: CoreState): u32 {\n  if (c.configured) return Rule.none;\n',
};

const LEAK: Change = { file: 'block_table.ts', from: '    releaseBlock(c, shared);\n', to: '' };
const EARLY_FREE: Change = {
  file: 'block_pool.ts',
  from: '  if (--block.owners > 0) return;',
  to: '  if (--block.owners > 1) return;',
};

const BUGS: readonly { name: string; changes: readonly Change[]; caughtBy: string }[] = [
  {
    name: 'a leaked block: the shared one, when a sequence copies it before it writes',
    changes: [LEAK],
    caughtBy: 'integrity',
  },
  { name: 'the same leak, told by the books when all is over', changes: [LEAK, BLIND], caughtBy: 'books' },
  {
    name: 'a block freed twice: by the last owner but one, and by the last',
    changes: [EARLY_FREE],
    caughtBy: 'integrity',
  },
  {
    name: 'the same block, told by the tokens of who still reads it',
    changes: [EARLY_FREE, BLIND],
    caughtBy: 'oracle',
  },
  {
    name: 'an aborted sequence that is buried while its step is in flight, and once more when that is committed',
    changes: [
      {
        file: 'lifecycle.ts',
        from: '  detachSequence(c, sequence);\n  if (sequence.stepsInFlight == 0) bury(c, sequence);',
        to: '  detachSequence(c, sequence);\n  bury(c, sequence);',
      },
    ],
    caughtBy: 'delivery',
  },
  {
    name: 'tokens delivered twice: an output whose columns are not emptied',
    changes: [{ file: 'output.ts', from: '  c.numOutTokens = 0;\n', to: '' }],
    caughtBy: 'delivery',
  },
  {
    name: 'a late duplicate of a result, taken for that of the step in flight',
    changes: [
      {
        file: 'core.ts',
        from: 'if (Result.step(result) != record.step) return',
        to: 'if (Result.step(result) > record.step) return',
      },
    ],
    caughtBy: 'refused results',
  },
  {
    name: 'a missed version bump: tokens of new weights are stamped with the old version',
    changes: [{ file: 'control_queue.ts', from: '  c.weightVersion = control.version;\n', to: '' }],
    caughtBy: 'weights',
  },
  {
    name: 'a prefix cache that outlives its weights',
    changes: [
      {
        file: 'control_queue.ts',
        from: '  c.weightVersion = control.version;\n  forgetPrefixes(c);\n',
        to: '  c.weightVersion = control.version;\n',
      },
      { file: 'prefix_cache.ts', from: 'mix(mix(c.weightVersion, ', to: 'mix(mix(0, ' },
    ],
    caughtBy: 'oracle',
  },
  {
    name: 'an unfair queue: the last to come is the first',
    changes: [
      {
        file: 'entry.ts',
        from: '  if (a.arrival != b.arrival) return a.arrival < b.arrival;',
        to: '  if (a.arrival != b.arrival) return a.arrival > b.arrival;',
      },
    ],
    caughtBy: 'fairness',
  },
  {
    name: 'an unfair queue: whoever was preempted goes first, whatever its priority',
    changes: [
      {
        file: 'scheduler.ts',
        from: 'const next = c.numFreeSequences > 0 ? changetype<usize>(queueFirst(c)) : queueFirstSequence(c);',
        to: 'const again = queueFirstSequence(c);\n    const next = again == 0 && c.numFreeSequences > 0 ? changetype<usize>(queueFirst(c)) : again;',
      },
    ],
    caughtBy: 'fairness',
  },
];

/** What the first run that fails says; null: none does. */
async function hunt(wasm: Uint8Array) {
  for (let seed = 1n; seed <= MOST_RUNS; seed++) {
    const task = { seed, steps: STEPS, workload: 'any', faults: 'swarm', kadenzVersion: '', wasm } as const;
    const outcome = await runOnce(task);
    if ('failure' in outcome) return { ...outcome.failure, runs: Number(seed) };
  }
  return null;
}

describe('the simulator finds', () => {
  it.each(BUGS)('$name', async ({ changes, caughtBy }) => {
    const caught = await hunt(await buildChangedCore(changes));
    expect(caught).toMatchObject({ checker: caughtBy });
  });

  it('nothing in a core that was built the same way with no change', async () => {
    expect(await hunt(await buildChangedCore([]))).toBeNull();
  });
});
