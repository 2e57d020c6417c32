// Compiles assembly/index.ts and drives it: messages are laid so that they end with the wasm's memory, where a read of one
// byte too many traps.

import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import asc from 'assemblyscript/asc';

const PAGE_BYTES = 65_536;
const PAGES = 32;
const BUFFER = 2 * PAGE_BYTES;
const SCRATCH = PAGE_BYTES;
const SINK_WORDS = 4096;

interface WireExports {
  open_sink(first: number, capacity: number): void;
  sink_end(): number;
  read_command(buffer: number): void;
  read_result(buffer: number): void;
  write_step_plan(buffer: number, scratch: number, count: number): number;
  write_control(buffer: number, scratch: number, type: number): number;
  write_output(buffer: number, scratch: number, count: number): number;
  write_stats(buffer: number): number;
  verify_command(buffer: number, bytes: number): number;
  verify_result(buffer: number, bytes: number): number;
  verify_instruction(buffer: number, bytes: number): number;
  verify_output(buffer: number, bytes: number): number;
  verify_stats(buffer: number, bytes: number): number;
}

export type Kind = 'command' | 'result' | 'instruction' | 'output' | 'stats';

export class WireModule {
  readonly #memory = new WebAssembly.Memory({ initial: PAGES, maximum: PAGES });
  readonly #exports: WireExports;

  static async compile(): Promise<WireModule> {
    const folder = mkdtempSync(join(tmpdir(), 'kadenz-wire-'));
    try {
      const repository = fileURLToPath(new URL('../..', import.meta.url));
      const { error, stderr } = await asc.main([
        join('test', 'wire', 'assembly', 'index.ts'),
        ...['--baseDir', repository, '-o', join(folder, 'wire.wasm')],
        ...'-O3 --noAssert --runtime stub --importMemory --enable bulk-memory --enable simd'.split(' '),
      ]);
      if (error) throw new Error(`${error.message}\n${stderr.toString()}`);
      return new WireModule(readFileSync(join(folder, 'wire.wasm')));
    } finally {
      rmSync(folder, { recursive: true });
    }
  }

  private constructor(wasm: Uint8Array<ArrayBuffer>) {
    const module = new WebAssembly.Module(wasm);
    const instance = new WebAssembly.Instance(module, {
      env: {
        memory: this.#memory,
        abort: () => {
          throw new Error('abort');
        },
      },
    });
    this.#exports = instance.exports as unknown as WireExports;
  }

  #written(bytes: number): Uint8Array {
    return new Uint8Array(this.#memory.buffer, BUFFER, bytes).slice();
  }

  /** Gaps must not let through what was there before. */
  #dirty(): void {
    new Uint8Array(this.#memory.buffer, BUFFER, PAGE_BYTES).fill(0xa5);
  }

  writeStepPlan(count: number): Uint8Array {
    this.#dirty();
    return this.#written(this.#exports.write_step_plan(BUFFER, SCRATCH, count));
  }

  writeControl(type: number): Uint8Array {
    this.#dirty();
    return this.#written(this.#exports.write_control(BUFFER, SCRATCH, type));
  }

  writeOutput(count: number): Uint8Array {
    this.#dirty();
    return this.#written(this.#exports.write_output(BUFFER, SCRATCH, count));
  }

  writeStats(): Uint8Array {
    this.#dirty();
    return this.#written(this.#exports.write_stats(BUFFER));
  }

  /** Puts a message at the very end of memory (alignment counts from its own start). Returns its address. */
  #place(message: Uint8Array): number {
    const memory = new Uint8Array(this.#memory.buffer);
    const address = memory.byteLength - message.byteLength;
    memory.set(message, address);
    return address;
  }

  verify(kind: Kind, message: Uint8Array): boolean {
    return this.#exports[`verify_${kind}`](this.#place(message), message.byteLength) !== 0;
  }

  /** The words of a verified message. */
  read(kind: 'command' | 'result', message: Uint8Array): bigint[] {
    this.#exports.open_sink(SCRATCH, SINK_WORDS);
    this.#exports[`read_${kind}`](this.#place(message));
    const words = new BigUint64Array(this.#memory.buffer, SCRATCH, (this.#exports.sink_end() - SCRATCH) / 8);
    return Array.from(words);
  }
}
