// Goes back into a trace for one step: the instruction that the core makes for it, and who sat in which slot when it did. A replay reads
// every step quickly; what a difference is called is looked up afterwards, by replaying once more up to there.

import { setImmediate } from 'node:timers/promises';
import {
  decodeInstruction,
  decodeInventory,
  type InstructionObject,
  type InventoryObject,
  type SequenceStateObject,
} from '../../core/index.js';
import type { TraceReader } from '../reader.js';
import type { Id, Owner } from './difference.js';
import { CoreStopped, ReplayCore } from './replay_core.js';

const EVENTS_A_TURN = 256;

/** A step, at the moment when it was planned. */
export class LocatedStep {
  readonly instruction: InstructionObject;
  readonly bytes: Uint8Array;
  readonly digest: bigint;
  readonly #bySlot: ReadonlyMap<number, SequenceStateObject>;

  constructor(bytes: Uint8Array, digest: bigint, { sequences }: InventoryObject) {
    this.bytes = bytes;
    this.digest = digest;
    this.instruction = decodeInstruction(bytes);
    this.#bySlot = new Map(
      sequences.filter(({ slot }) => slot !== null).map((sequence) => [sequence.slot!, sequence]),
    );
  }

  ownerOf(slot: number): Owner | null {
    const sequence = this.#bySlot.get(slot);
    return sequence === undefined ? null : { request: sequence.request, sample: sequence.sample };
  }

  /** Of sample or score number `entry` of the plan: whose it is, and the position of the token that it is about. */
  entryOf(
    kind: 'step' | 'sample' | 'score',
    entry: number,
  ): { request: Id; sample: number; position: number } | null {
    const plan = this.instruction;
    if (plan.type !== 'stepPlan' || kind === 'step') return null;
    const { slot, row } = (kind === 'sample' ? plan.samples : plan.scores)[entry] ?? { slot: -1, row: -1 };
    const owner = this.ownerOf(slot);
    const sequence = plan.sequences.find(
      ({ firstRow, numTokens }) => row >= firstRow && row < firstRow + numTokens,
    );
    if (owner === null || sequence === undefined) return null;
    return { ...owner, position: sequence.start + row - sequence.firstRow + 1 };
  }
}

/** null when the core does not plan that step from what the trace holds. */
export async function locateStep(
  reader: TraceReader,
  step: number,
  { wasm, signal }: { wasm?: Uint8Array | undefined; signal?: AbortSignal | undefined } = {},
): Promise<LocatedStep | null> {
  const found: { step: LocatedStep | null } = { step: null };
  const replay: ReplayCore = await ReplayCore.create(reader, {
    wasm,
    onPlanned: (planned) => {
      if (planned.step !== step) return;
      const bytes = planned.instruction.slice();
      found.step = new LocatedStep(bytes, planned.digest, decodeInventory(replay.core.inventory()));
    },
  });
  try {
    let numEvents = 0;
    for (const event of reader.events()) {
      if (event.kind === 'end' || signal?.aborted === true) break;
      replay.schedule(event.rounds);
      if (found.step !== null) break;
      if (event.kind === 'command') replay.apply(event);
      else replay.commit(event.result);
      numEvents += 1;
      if (numEvents % EVENTS_A_TURN === 0) await setImmediate();
    }
  } catch (error) {
    if (!(error instanceof CoreStopped)) throw error;
  }
  return found.step;
}
