import { describe, expect, it } from 'vitest';
import { KadenzError } from '../../src/errors.js';
import { FRAME_HEAD_BYTES, PREAMBLE_BYTES } from '../../src/trace/frame.js';
import { type ReplayReport, replayTrace } from '../../src/trace/index.js';
import {
  countOfColumn,
  type Frame,
  fieldOf,
  flipped,
  framesOf,
  scratchFolder,
  seededIntegers,
  stepsIn,
  withPayloads,
} from './damage.js';
import { CONFIG, promptOf, RecordedRun } from './recorded_run.js';

const scratch = scratchFolder();
/** Fields of TraceCommand and TraceSteps, in schemas/trace.fbs. */
const [AFTER_STEP, FIRST_STEP, ROUNDS] = [0, 0, 2];

/** Commands between steps, so that the file has many frames, and of each kind one at least. */
async function manyFrames(): Promise<Buffer> {
  const run = await RecordedRun.create({ numBlocks: 16 });
  for (let id = 1; id <= 8; id += 1) {
    run.add({ id, promptTokenIds: promptOf(20 + id, id), maxTokens: 12, n: 1 + (id % 2) });
    run.steps(2);
  }
  run.apply({ type: 'pauseGeneration', mode: 'keep' });
  run.finish();
  run.apply({ type: 'resumeGeneration' });
  run.finish();
  return run.bytes();
}

const file = await manyFrames();
const frames = framesOf(file);
const numSteps = frames.reduce((sum, frame) => sum + stepsIn(frame), 0);
const lastOf = (kind: Frame['kind']) => frames.findLastIndex((frame) => frame.kind === kind);
const stepsBefore = (index: number) => frames.slice(0, index).reduce((sum, frame) => sum + stepsIn(frame), 0);

const replayBytes = (name: string, bytes: Uint8Array): Promise<ReplayReport> =>
  replayTrace(scratch.write(name, bytes));

/** The report, or the error that opening gave. */
async function outcomeOf(name: string, bytes: Uint8Array): Promise<ReplayReport | KadenzError> {
  try {
    return await replayBytes(name, bytes);
  } catch (error) {
    if (error instanceof KadenzError) return error;
    throw error;
  }
}

it('the trace of these tests has frames of every kind, and replays', async () => {
  expect([...new Set(frames.map(({ kind }) => kind))].sort()).toEqual(['command', 'end', 'header', 'steps']);
  expect(frames.length).toBeGreaterThan(18);
  expect(await replayBytes('whole.kdz', file)).toMatchObject({ difference: null, ended: 'end', numSteps });
});

describe('a byte that changed on disk', () => {
  const places = [
    ['the length in its head', 3, 'its length is impossible'],
    ['the codec in its head', 8, 'its checksum does not fit'],
    ['its checksum', 16, 'its checksum does not fit'],
    ['its payload', FRAME_HEAD_BYTES + 5, 'its checksum does not fit'],
  ] as const;

  for (const kind of ['steps', 'command', 'end'] as const) {
    it.each(places)(
      `of a ${kind} frame, in %s, ends the replay there, and names the frame`,
      async (_, at, what) => {
        const index = lastOf(kind);
        const { begin } = frames[index]!;
        const report = await replayBytes('flipped.kdz', flipped(file, begin + at));
        expect(report).toMatchObject({ difference: null, ended: 'corrupt', numSteps: stepsBefore(index) });
        expect(report.problem).toEqual({
          kind: 'corrupt',
          offset: begin,
          frame: index,
          sentence: `frame ${index} at byte ${begin} is damaged: ${what}.`,
        });
      },
    );
  }

  it.each(places)('of the header, in %s, leaves nothing to replay', async (_, at, what) => {
    await expect(replayBytes('header.kdz', flipped(file, PREAMBLE_BYTES + at))).rejects.toMatchObject({
      code: 'trace_corrupt',
      message: expect.stringContaining(`frame 0 at byte ${PREAMBLE_BYTES} is damaged: ${what}.`),
    });
  });

  it('of the preamble makes it no trace, or one of another version', async () => {
    await expect(replayBytes('magic.kdz', flipped(file, 0))).rejects.toMatchObject({
      code: 'trace_unsupported',
      message: expect.stringContaining('is no trace of Kadenz'),
    });
    await expect(replayBytes('version.kdz', flipped(file, 8, 3))).rejects.toMatchObject({
      code: 'trace_unsupported',
      message: expect.stringMatching(/version 2; this Kadenz reads version 1.*record the run again/),
    });
  });
});

describe('a frame with a right checksum', () => {
  const withWord = (index: number, at: number, value: number) =>
    withPayloads(file, (frame, i) => {
      if (i !== index) return null;
      const copy = Buffer.from(frame.stored);
      copy.writeUInt32LE(value, at);
      return copy;
    });

  it.each(['steps', 'command', 'end'] as const)(
    'of kind %s whose root lies outside is damage, and what was before it is equal',
    async (kind) => {
      const index = lastOf(kind);
      const report = await replayBytes('root.kdz', await withWord(index, 0, 0xffff_fff0));
      expect(report).toMatchObject({ difference: null, ended: 'corrupt', numSteps: stepsBefore(index) });
      expect(report.problem!.sentence).toMatch(/is damaged: something lies outside of its message\.$/);
    },
  );

  it.each([
    ['steps', 2],
    ['token_ids', 3],
    ['logprobs', 4],
    ['result_step', 5],
    ['results', 7],
    ['plan_end', 8],
    ['plans', 9],
  ])('that claims more %s than there are bytes is damage', async (_, field) => {
    const index = lastOf('steps');
    const at = countOfColumn(frames[index]!.stored, field);
    const report = await replayBytes('count.kdz', await withWord(index, at, 0x3fff_fff0));
    expect(report).toMatchObject({ difference: null, ended: 'corrupt', numSteps: stepsBefore(index) });
    expect(report.problem!.sentence).toMatch(/is damaged: something lies outside of its message\.$/);
  });

  it('that holds no valid command is refused by the core, and the next plan differs', async () => {
    const index = frames.findIndex(({ kind }) => kind === 'command');
    const bytes = await withPayloads(file, (frame, i) => {
      if (i !== index) return null;
      const copy = Buffer.from(frame.stored);
      const inner = copy.lastIndexOf(Buffer.from(Int32Array.from(promptOf(21, 1)).buffer));
      copy.fill(0xff, inner - 4, inner);
      return copy;
    });
    const report = await replayBytes('command.kdz', bytes);
    expect(report.difference).toMatchObject({
      step: 1,
      field: 'plan',
      right: 'nothing: the core had none to give',
    });
  });

  it('of a command that came after another step, or of steps with other numbers, is out of place', async () => {
    const command = lastOf('command');
    const after = stepsBefore(command);
    const moved = await withWord(command, fieldOf(frames[command]!, AFTER_STEP), 3);
    const misplaced = await replayBytes('moved.kdz', moved);
    expect(misplaced).toMatchObject({ ended: 'corrupt', difference: null, numSteps: after });
    expect(misplaced.problem!.sentence).toMatch(
      /out of place: it was applied after step 3, and step \d+ comes next/,
    );
    const steps = lastOf('steps');
    const next = stepsBefore(steps) + 1;
    const renumbered = await withWord(steps, fieldOf(frames[steps]!, FIRST_STEP), 1000);
    const other = await replayBytes('renumbered.kdz', renumbered);
    expect(other).toMatchObject({ ended: 'corrupt', difference: null, numSteps: next - 1 });
    expect(other.problem!.sentence).toMatch(
      `out of place: it begins with step 1000, and step ${next} comes next`,
    );
  });

  it('that asks for four billion rounds of scheduling gets those that can matter', async () => {
    const index = lastOf('command');
    const at = fieldOf(frames[index]!, ROUNDS);
    const report = await replayBytes('rounds.kdz', await withWord(index, at, 0xffff_ffff));
    expect(report).toMatchObject({ difference: null, ended: 'end', numSteps });
  });

  it('of a header whose configuration no core has is told with the core that had it', async () => {
    const at = frames[0]!.stored.indexOf(Buffer.from(Uint32Array.from([CONFIG.vocabSize]).buffer));
    await expect(replayBytes('config.kdz', await withWord(0, at, 0xffff_ffff))).rejects.toMatchObject({
      code: 'trace_unsupported',
      message: expect.stringMatching(
        /refuses the configuration of the run\. vocabSize is 4294967295; .* recorded by Kadenz 0\.1\.0/,
      ),
    });
  });

  // Changes of single words at random places: whatever they mean, the replay ends with a report or with an error that has a code.
  it.each(['header', 'steps', 'command', 'end'] as const)(
    'of kind %s, however it lies, is told and never crashes',
    async (kind) => {
      const random = seededIntegers(7);
      const index = frames.findIndex((frame) => frame.kind === kind);
      const words = frames[index]!.stored.byteLength / 4;
      const values = [0, 1, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 0xffff_fff8, 0x0101_0101];
      const ends = new Map<string, number>();
      for (let i = 0; i < 100; i += 1) {
        const bytes = await withWord(index, 4 * random(words), values[random(values.length)]!);
        const outcome = await outcomeOf('word.kdz', bytes);
        const end = outcome instanceof KadenzError ? outcome.code : outcome.ended;
        ends.set(end, (ends.get(end) ?? 0) + 1);
      }
      expect([
        'end',
        'corrupt',
        'difference',
        'trace_corrupt',
        'trace_unsupported',
        'invalid_config',
        'out_of_memory',
      ]).toEqual(expect.arrayContaining([...ends.keys()]));
      expect([...ends.keys()].some((end) => end.includes('corrupt'))).toBe(true);
    },
  );
});

describe('a trace that was cut', () => {
  /** How much of it must replay: the steps of the whole frames. */
  async function expectReplayedUpTo(length: number): Promise<void> {
    const outcome = await outcomeOf('cut.kdz', file.subarray(0, length));
    const whole = frames.filter(({ end }) => end <= length);
    if (length < frames[0]!.end) {
      expect(outcome, `cut at ${length}`).toBeInstanceOf(KadenzError);
      const code = length < PREAMBLE_BYTES ? 'trace_unsupported' : 'trace_corrupt';
      expect((outcome as KadenzError).code, `cut at ${length}`).toBe(code);
      return;
    }
    const isWhole = whole.length === frames.length;
    expect(outcome, `cut at ${length}`).toMatchObject({
      difference: null,
      ended: isWhole ? 'end' : 'cut',
      numSteps: whole.reduce((sum, frame) => sum + stepsIn(frame), 0),
      numCommands: whole.filter(({ kind }) => kind === 'command').length,
    });
    const { problem } = outcome as ReplayReport;
    if (!isWhole) expect(problem).toMatchObject({ kind: 'cut', frame: whole.length });
  }

  it('at a frame boundary replays up to there', async () => {
    for (const { begin, end } of frames) {
      await expectReplayedUpTo(begin);
      await expectReplayedUpTo(end);
    }
  });

  it('at any of 1,000 random bytes replays up to its last whole frame', { timeout: 240_000 }, async () => {
    const random = seededIntegers(3);
    for (let i = 0; i < 1000; i += 1) await expectReplayedUpTo(random(file.byteLength));
  });
});
