// The core with plain objects in and out: what unit tests of the scheduling and tools drive, with no host.
//
//   const core = await Core.create({ maxModelLen: 1024, numBlocks: 100, vocabSize: 1000 });
//   core.apply({ type: 'addRequests', requests: [{ id: 1, promptTokenIds: [5, 6, 7], maxTokens: 2 }] });
//   for (let step = core.schedule(); step !== null; step = core.schedule()) {
//     const output = core.commit(resultFor(step, (sample) => sample.position));
//   }
//
// A command that the state forbids, and a request that can't be run, do not throw: they come back as `acks` and `finishes`.

import { type CommandObject, encodeCommand } from './commands.js';
import type { CoreConfig } from './config.js';
import { decodeInstruction, type InstructionObject } from './instructions.js';
import { decodeInventory, type InventoryObject } from './inventory.js';
import { decodeOutput, decodeStats, type OutputObject, type StatsObject } from './outputs.js';
import { encodeResult, type ResultObject } from './results.js';
import { WasmCore } from './wasm_core.js';

export class Core {
  readonly #core: WasmCore;
  /** Configure was command 0. */
  #nextCommandId = 1;

  /** Throws a KadenzError when the configuration is refused. */
  static async create(config: CoreConfig): Promise<Core> {
    return new Core(await WasmCore.create(config), 1);
  }

  static async fromSnapshot(snapshot: Uint8Array): Promise<Core> {
    return new Core(await WasmCore.fromSnapshot(snapshot), 1);
  }

  private constructor(core: WasmCore, nextCommandId: number) {
    this.#core = core;
    this.#nextCommandId = nextCommandId;
  }

  /** Throws only for what the wire can't carry (a token id of 1.5); the core's refusals are in the output. */
  apply(command: CommandObject): OutputObject {
    const id = command.id ?? this.#nextCommandId;
    const bytes = encodeCommand(id, command);
    if (command.id === undefined) this.#nextCommandId += 1;
    return decodeOutput(this.#core.apply(bytes));
  }

  /** null: nothing to do now, or as many steps are in flight as may be. */
  schedule(): InstructionObject | null {
    const bytes = this.#core.schedule();
    return bytes === null ? null : decodeInstruction(bytes);
  }

  commit(result: ResultObject): OutputObject {
    return decodeOutput(this.#core.commit(encodeResult(result)));
  }

  stats(): StatsObject {
    return decodeStats(this.#core.stats());
  }

  /** Who is in the core: live requests and their sequences. */
  inventory(): InventoryObject {
    return decodeInventory(this.#core.inventory());
  }

  /** Throws the sentence of the first broken invariant. */
  checkIntegrity(): void {
    this.#core.checkIntegrity();
  }

  /** Digest of all instructions so far, chained. */
  digest(): bigint {
    return this.#core.digest();
  }

  snapshot(): Uint8Array {
    return this.#core.snapshot();
  }

  restore(snapshot: Uint8Array): void {
    this.#core.restore(snapshot);
  }

  /** A second core in the same state; the two go on independently. */
  async fork(): Promise<Core> {
    return new Core(await WasmCore.fromSnapshot(this.#core.snapshot()), this.#nextCommandId);
  }
}
