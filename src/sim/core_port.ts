// The core that a simulation drives: one, or for a while two. After a snapshot a fresh core is restored from it and
// made to answer every call beside the first, byte for byte; then the first is given up and the fresh one goes on
// alone.

import type { WasmCore } from '../core/index.js';
import { fail } from './failure.js';

export type DrivenCore = Pick<
  WasmCore,
  'apply' | 'schedule' | 'commit' | 'stats' | 'checkIntegrity' | 'digest' | 'snapshot'
>;

export class CorePort implements DrivenCore {
  #core: WasmCore;
  #twin: WasmCore | null = null;
  #callsTogether = 0;

  constructor(core: WasmCore) {
    this.#core = core;
  }

  /** @param calls for how many calls both answer */
  runBeside(twin: WasmCore, calls: number): void {
    if (this.#twin !== null) return;
    this.#twin = twin;
    this.#callsTogether = calls;
  }

  apply(command: Uint8Array): Uint8Array {
    return this.#both('apply', (core) => core.apply(command))!;
  }

  schedule(): Uint8Array | null {
    return this.#both('schedule', (core) => core.schedule());
  }

  commit(result: Uint8Array): Uint8Array {
    return this.#both('commit', (core) => core.commit(result))!;
  }

  stats(): Uint8Array {
    return this.#both('stats', (core) => core.stats())!;
  }

  checkIntegrity(): void {
    this.#core.checkIntegrity();
    this.#twin?.checkIntegrity();
  }

  digest(): bigint {
    return this.#core.digest();
  }

  snapshot(): Uint8Array {
    return this.#core.snapshot();
  }

  #both(name: string, call: (core: WasmCore) => Uint8Array | null): Uint8Array | null {
    const answer = call(this.#core);
    if (this.#twin === null) return answer;
    const other = call(this.#twin);
    const areEqual =
      answer === null || other === null ? answer === other : Buffer.compare(answer, other) === 0;
    if (!areEqual) fail('snapshot', `A core restored from a snapshot answers ${name} differently.`);
    this.#callsTogether -= 1;
    if (this.#callsTogether > 0) return answer;
    this.#core = this.#twin;
    this.#twin = null;
    return other;
  }
}
