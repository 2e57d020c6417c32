import { existsSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { decodeInstruction, decodeInventory, decodeOutput, decodeStats } from '../../src/core/index.js';
import { replayTrace, TraceReader } from '../../src/trace/index.js';
import { ReplayCore } from '../../src/trace/replay/replay_core.js';
import { framesOf } from './damage.js';
import { goldenPath, makeGoldenBytes } from './make_golden.js';
import { type Observed, SCENARIOS } from './scenarios.js';

const names = Object.keys(SCENARIOS);
const UPDATE = process.env.KADENZ_UPDATE_GOLDEN === '1';

/** Replays the file and keeps everything that the core gave. */
async function observe(path: string): Promise<Observed> {
  const reader = await TraceReader.open(path);
  const seen: Observed = { instructions: [], outputs: [], numPreemptions: 0, endedInFlight: 0 };
  const replay = await ReplayCore.create(reader, {
    onPlanned: ({ instruction }) => seen.instructions.push(decodeInstruction(instruction)),
  });
  for (const event of reader.events()) {
    if (event.kind === 'end') break;
    replay.schedule(event.rounds);
    seen.outputs.push(
      decodeOutput(event.kind === 'command' ? replay.apply(event) : replay.commit(event.result)),
    );
    if (event.kind === 'step') continue;
    const { sequences } = decodeInventory(replay.core.inventory());
    seen.endedInFlight += sequences.filter(({ state }) => state === 'ended').length;
  }
  reader.close();
  seen.numPreemptions = decodeStats(replay.core.stats()).numPreemptions;
  return seen;
}

if (UPDATE) for (const name of names) writeFileSync(goldenPath(name), await makeGoldenBytes(name));

describe('the golden traces', () => {
  it('are those of the scenarios, small, and one for each', () => {
    const files = readdirSync(fileURLToPath(new URL('golden', import.meta.url))).sort();
    expect(files).toEqual(names.map((name) => `${name}.kdz`).sort());
    const bytes = names.map((name) => statSync(goldenPath(name)).size);
    expect(Math.max(...bytes)).toBeLessThan(40_000);
  });

  describe.each(names)('%s', (name) => {
    it('replays: every instruction comes out byte for byte as it is stored', async () => {
      expect(existsSync(goldenPath(name)), 'README.md says how to make it').toBe(true);
      const report = await replayTrace(goldenPath(name));
      expect(report).toMatchObject({
        difference: null,
        problem: null,
        ended: 'end',
        comparedPlansBy: 'bytes',
      });
      expect(report.numSteps).toBeGreaterThan(3);
    });

    it('holds what it is named after', async () => {
      SCENARIOS[name]!.happened(await observe(goldenPath(name)));
    });

    it('is made again the same, apart from the header', async () => {
      const [stored, made] = [readFileSync(goldenPath(name)), await makeGoldenBytes(name)];
      const bodies = [stored, made].map((bytes) =>
        framesOf(bytes)
          .slice(1)
          .map((frame) => frame.stored.toString('hex')),
      );
      expect(bodies[1]).toEqual(bodies[0]);
    });
  });
});
