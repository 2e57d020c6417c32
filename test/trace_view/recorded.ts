// Records small runs for the views to look at: the real core, a rule in place of a host, and a clock that only steps move. What the run gave is
// kept beside it, off the core's own outputs, so that a history can be held against it.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type CommandBody, type CoreConfig, encodeCommand, WasmCore } from '../../src/core/index.js';
import { decodeInstruction, type InstructionObject } from '../../src/core/instructions.js';
import { decodeOutput, decodeStats, type OutputObject, type StatsObject } from '../../src/core/outputs.js';
import { encodeResult, type ResultObject } from '../../src/core/results.js';
import { RecordingCore, TraceRecorder, TraceWriter } from '../../src/trace/index.js';

export const STEP_US = 1000;
export const ROW_US = 10;

export const defaults: CoreConfig = {
  maxModelLen: 1024,
  numBlocks: 100,
  blockSize: 16,
  vocabSize: 1000,
  maxNumSeqs: 8,
  maxNumBatchedTokens: 256,
  maxNumRequests: 64,
  eosTokenIds: [2],
};

const directories: string[] = [];

export function removeRecordings(): void {
  for (const directory of directories.splice(0)) rmSync(directory, { recursive: true });
}

/** A prompt that no other begins like, unless it has the same salt. */
export function promptOf(length: number, salt: number): number[] {
  return Array.from({ length }, (_, i) => 3 + ((i * 31 + salt * 101) % 900));
}

export class RecordedRun {
  readonly outputs: OutputObject[] = [];
  readonly plans: InstructionObject[] = [];
  /** As the core said after each plan. */
  readonly stats: StatsObject[] = [];
  readonly #core: RecordingCore;
  readonly #recorder: TraceRecorder;
  readonly #writer: TraceWriter;
  readonly #clock: { us: number };
  readonly #inFlight: InstructionObject[] = [];
  #nextCommand = 1;

  static async create(name: string, config: Partial<CoreConfig> = {}): Promise<RecordedRun> {
    const core = await WasmCore.create({ ...defaults, ...config });
    const directory = mkdtempSync(join(tmpdir(), 'kadenz-view-'));
    directories.push(directory);
    const writer = await TraceWriter.create(join(directory, name));
    return new RecordedRun(core, writer);
  }

  private constructor(core: WasmCore, writer: TraceWriter) {
    this.#writer = writer;
    const clock = { us: 0 };
    this.#clock = clock;
    const header = {
      ...{
        kadenzVersion: '0.1.0',
        model: 'models/</script><b>\u001b[2J',
        modelFingerprint: '',
        hostFingerprint: 'cpu test',
      },
      createdUnixMs: Date.UTC(2026, 10, 1, 12, 30),
    };
    this.#recorder = new TraceRecorder((payload) => writer.write(payload), core, {
      header,
      clock: () => clock.us,
    });
    this.#core = new RecordingCore(core, this.#recorder);
  }

  get path(): string {
    return this.#writer.path;
  }

  wait(us: number): void {
    this.#clock.us += us;
  }

  apply(command: CommandBody): OutputObject {
    const output = decodeOutput(this.#core.apply(encodeCommand(this.#nextCommand++, command)));
    this.outputs.push(output);
    return output;
  }

  /** Plans as far as may be, and commits the oldest step. False: there was none. `tokenOf` gives the sampled token. */
  step(tokenOf: (slot: number, position: number) => number = () => 7, code?: ResultObject['code']): boolean {
    for (let bytes = this.#core.schedule(); bytes !== null; bytes = this.#core.schedule()) {
      const instruction = decodeInstruction(bytes);
      this.#inFlight.push(instruction);
      this.plans.push(instruction);
      this.stats.push(decodeStats(this.#core.stats()));
    }
    const instruction = this.#inFlight.shift();
    if (instruction === undefined) return false;
    const samples = instruction.type === 'stepPlan' ? instruction.samples : [];
    this.#clock.us += STEP_US + (instruction.type === 'stepPlan' ? instruction.numTokens * ROW_US : 0);
    const zeros = new Uint32Array(samples.length);
    const result: ResultObject =
      code !== undefined
        ? { step: instruction.step, code, message: 'the device is gone' }
        : {
            step: instruction.step,
            tokenIds: samples.map(({ slot, position }) => tokenOf(slot, position)),
            logprobs: samples.map(({ position }) => -position / 1024),
            ranks: zeros,
            topEnds: zeros,
          };
    this.outputs.push(decodeOutput(this.#core.commit(encodeResult(result))));
    return true;
  }

  run(tokenOf?: (slot: number, position: number) => number): void {
    while (this.step(tokenOf));
  }

  async end(): Promise<string> {
    this.#recorder.end(this.#core.digest());
    await this.#writer.close();
    return this.path;
  }

  /** Leaves the trace as a killed process does. */
  async kill(): Promise<string> {
    await this.#writer.close();
    return this.path;
  }

  tokensOf(request: number, sample: number): number {
    return this.outputs
      .flatMap(({ tokens }) => tokens)
      .filter((token) => token.request === request && token.sample === sample).length;
  }
}

/** A run with much in it: fan-out, chunks, a small pool and so preemptions, priorities, shared prompts, a pause, new weights, an abort, a stop. */
export async function eventfulRun(): Promise<RecordedRun> {
  const run = await RecordedRun.create('eventful.kdz', { numBlocks: 60 });
  const add = (
    id: number,
    more: { n?: number; priority?: number; length?: number; salt?: number; maxTokens?: number },
  ) => ({
    ...{
      id,
      n: more.n ?? 1,
      priority: more.priority ?? 0,
      maxTokens: more.maxTokens ?? 60,
      ignoreEos: id !== 5,
    },
    promptTokenIds: promptOf(more.length ?? 40, more.salt ?? id),
  });
  // Request 5 alone heeds it.
  const tokenOf = (_slot: number, position: number) => (position === 110 ? 2 : 7);
  run.wait(500);
  run.apply({
    type: 'addRequests',
    requests: [add(1, { n: 4, length: 300 }), add(2, { length: 90 }), add(3, { n: 2 })],
  });
  for (let i = 0; i < 12; i += 1) run.step(tokenOf);
  run.apply({
    type: 'addRequests',
    requests: [add(4, { n: 3, priority: -1, length: 120, maxTokens: 150 }), add(5, { length: 90, salt: 2 })],
  });
  for (let i = 0; i < 30; i += 1) run.step(tokenOf);
  run.apply({
    type: 'addRequests',
    requests: [add(6, { n: 2, length: 2000 }), add(7, { n: 5, length: 70 })],
  });
  for (let i = 0; i < 8; i += 1) run.step(tokenOf);
  run.apply({ type: 'pauseGeneration', mode: 'keep' });
  while (run.step(tokenOf));
  run.apply({ type: 'beginWeightUpdate' });
  run.apply({ type: 'finishWeightUpdate', version: 1 });
  run.apply({ type: 'loadAdapter', adapter: 1, name: '</script><i>', path: 'adapters/1' });
  while (run.step(tokenOf));
  run.wait(20_000);
  run.apply({ type: 'resumeGeneration' });
  for (let i = 0; i < 10; i += 1) run.step(tokenOf);
  run.apply({ type: 'abortRequests', requestIds: [7] });
  run.run(tokenOf);
  await run.end();
  return run;
}
