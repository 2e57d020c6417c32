// A process that is killed while it writes a trace leaves a file that ends anywhere. Its run must replay up to the
// last whole frame.

import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { replayTrace } from '../../trace/index.js';
import { CheckFailed, fail } from '../failure.js';
import type { Random } from '../random.js';
import type { Recording } from '../recording.js';

export async function checkCutTrace(
  recording: Recording,
  random: Random,
  wasm: Uint8Array | undefined,
): Promise<void> {
  const bytes = recording.bytes();
  const header = recording.frameEnds[0]!.offset;
  const cut = header + (random.bits() % (bytes.byteLength - header + 1));
  const whole = recording.frameEnds.filter(({ offset }) => offset <= cut).at(-1)!;
  const folder = await mkdtemp(join(tmpdir(), 'kadenz-sim-'));
  try {
    const path = join(folder, 'cut.kdz');
    await writeFile(path, bytes.subarray(0, cut));
    const report = await replayTrace(path, { wasm });
    const ending = cut === bytes.byteLength ? 'end' : 'cut';
    if (report.difference !== null || report.ended !== ending || report.numSteps !== whole.numSteps)
      fail(
        'trace',
        `A trace of ${bytes.byteLength} bytes that was cut at byte ${cut} replays ${report.numSteps} steps and ends with ` +
          `'${report.ended}'; its whole frames hold ${whole.numSteps}.`,
      );
  } catch (error) {
    if (error instanceof CheckFailed) throw error;
    fail('trace', `A trace that was cut at byte ${cut} can't be replayed: ${(error as Error).message}`);
  } finally {
    await rm(folder, { recursive: true });
  }
}
