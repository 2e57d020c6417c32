// A run's trace, kept in memory: for a failure that is reproduced, and for traces that are cut as a killed process
// would leave them. The clock is the run's virtual one, and it was created at no time, so that the same seed gives
// the same bytes.

import { writeFile } from 'node:fs/promises';
import * as flatbuffers from 'flatbuffers';
import type { WasmCore } from '../core/index.js';
import { KadenzError } from '../errors.js';
import { TraceBody, TraceFrame, TraceSteps } from '../generated/index.js';
import { type Checksum, loadChecksum } from '../trace/checksum.js';
import { frameBytes, preamble } from '../trace/frame.js';
import { RecordingCore, TraceRecorder } from '../trace/index.js';
import type { DrivenCore } from './core_port.js';

/** Where a frame ends in the file, and how many steps have been committed in the frames up to it. */
export interface FrameEnd {
  offset: number;
  numSteps: number;
}

export class Recording {
  readonly #checksum: Checksum;
  readonly #kadenzVersion: string;
  readonly #parts: Uint8Array[] = [preamble()];
  readonly frameEnds: FrameEnd[] = [];
  #recorder: TraceRecorder | null = null;
  #bytes = 0;
  #numSteps = 0;

  static async create(kadenzVersion: string): Promise<Recording> {
    return new Recording(await loadChecksum(), kadenzVersion);
  }

  private constructor(checksum: Checksum, kadenzVersion: string) {
    this.#checksum = checksum;
    this.#kadenzVersion = kadenzVersion;
    this.#bytes = this.#parts[0]!.byteLength;
  }

  /** @param first the core as it was configured; `core` may be another one by the time that it is called */
  wrap(core: DrivenCore, first: WasmCore, clock: () => number): DrivenCore {
    const header = {
      kadenzVersion: this.#kadenzVersion,
      model: '',
      modelFingerprint: '',
      hostFingerprint: '',
      createdUnixMs: 0,
    };
    const recorder = new TraceRecorder((payload) => this.#take(payload), first, {
      header,
      clock,
      plans: true,
    });
    this.#recorder = recorder;
    // It only makes the calls that a DrivenCore has.
    const recording = new RecordingCore(core as WasmCore, recorder);
    return {
      apply: (command) => recording.apply(command),
      schedule: () => recording.schedule(),
      commit: (result) => recording.commit(result),
      stats: () => core.stats(),
      checkIntegrity: () => core.checkIntegrity(),
      digest: () => core.digest(),
      snapshot: () => core.snapshot(),
    };
  }

  #take(payload: Uint8Array): void {
    const frame = frameBytes(payload, { checksum: this.#checksum });
    this.#parts.push(frame);
    this.#bytes += frame.byteLength;
    const table = TraceFrame.getRootAsTraceFrame(new flatbuffers.ByteBuffer(payload));
    if (table.bodyType() === TraceBody.TraceSteps)
      this.#numSteps += (table.body(new TraceSteps()) as TraceSteps).stepsLength();
    this.frameEnds.push({ offset: this.#bytes, numSteps: this.#numSteps });
  }

  /** The run is over, or failed: what was not written yet is. */
  end(digest: bigint): void {
    this.#recorder?.end(digest);
  }

  bytes(): Uint8Array {
    return Buffer.concat(this.#parts);
  }

  async writeTo(path: string): Promise<void> {
    try {
      await writeFile(path, this.bytes());
    } catch (cause) {
      const reason = cause instanceof Error ? cause.message : String(cause);
      throw new KadenzError('record_failed', `The trace could not be written to ${path}: ${reason}.`, {
        path,
        cause,
      });
    }
  }
}
