// The core and a naive model of it, driven side by side by random commands, results and faults until they differ (side_by_side.ts).
//
// KADENZ_FUZZ_RUNS=20000 runs longer, KADENZ_FUZZ_SEED=123 elsewhere. A failure prints its seed, its path and the shrunk actions; setting
// KADENZ_FUZZ_SEED to the seed repeats it.
import fc from 'fast-check';
import { describe, it } from 'vitest';
import { actions, config, FuzzRun } from './fuzz_actions.js';
import { SideBySide } from './side_by_side.js';

const numRuns = Number(process.env.KADENZ_FUZZ_RUNS ?? 600);
const seed = Number(process.env.KADENZ_FUZZ_SEED ?? 20_251_121);

describe('the core beside the naive model', () => {
  it('gives the same plans and outputs for any commands, results and faults, and every request ends', {
    timeout: 3_600_000,
  }, async () => {
    await fc.assert(
      fc.asyncProperty(config, actions, async (drawnConfig, drawnActions) => {
        const sides = await SideBySide.create(drawnConfig);
        const run = new FuzzRun(sides);
        for (const action of drawnActions) run.carryOut(action);
        sides.finish();
      }),
      { numRuns, seed, verbose: fc.VerbosityLevel.None },
    );
  });
});
