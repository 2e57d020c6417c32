// The core: one WebAssembly instance with a memory of fixed size, bytes in and bytes out.
//
// Lifecycle: `create` asks a small instance how much memory the configuration needs, makes the real one with exactly that, and
// sends it Configure. From then on: apply commands, schedule instructions, commit their results in order.
// Ownership: everything returned is a view into the core's memory. An Output or Stats is valid until the next call; an Instruction
// stays valid and unchanged until its result has been committed.
// All state lies in the memory (no globals), so a copy of its used part is a snapshot, and copying it back is a restore.
// A trap or an abort means a broken invariant: the core is given up, and every later call throws the same error.

import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import * as flatbuffers from 'flatbuffers';
import { errorFromWire, KadenzError } from '../errors.js';
import { ErrorCode, Output } from '../generated/index.js';
import { encodeConfigure } from './commands.js';
import { type CoreConfig, type ResolvedCoreConfig, resolveCoreConfig } from './config.js';
import { integrityRule } from './integrity_rules.js';
import { readSnapshotHeader, SNAPSHOT_HEADER_BYTES, writeSnapshotHeader } from './snapshot.js';

const PAGE_BYTES = 65_536;
/** What the module itself asks of its memory: enough to be asked for the rest. */
const PROBE_PAGES = 16;

/** What the module exports; 32-bit results are addresses or sizes and come as signed integers. */
interface CoreExports {
  required_bytes(
    maxNumSeqs: number,
    maxNumBatchedTokens: number,
    maxModelLen: number,
    numBlocks: number,
    blockSize: number,
    maxNumRequests: number,
    tokenHeapBytesLow: number,
    tokenHeapBytesHigh: number,
  ): bigint;
  command_buffer(bytes: number): number;
  apply(bytes: number): number;
  result_buffer(bytes: number): number;
  commit(bytes: number): number;
  schedule(): number;
  message_bytes(): number;
  stats(): number;
  inventory(): number;
  check_integrity(): number;
  used_bytes(): number;
  digest(): bigint;
}

interface CoreModule {
  module: WebAssembly.Module;
  sha256: Uint8Array;
}

let loaded: Promise<CoreModule> | undefined;

/** The compiled module and the hash of its bytes, once for each thread. */
function loadModule(): Promise<CoreModule> {
  loaded ??= readFile(new URL('../../build/core.wasm', import.meta.url)).then(compile);
  return loaded;
}

/** Another core than the one that was built, compiled once. For tests that plant a bug. */
const others = new WeakMap<Uint8Array, Promise<CoreModule>>();

function moduleOf(wasm: Uint8Array | undefined): Promise<CoreModule> {
  if (wasm === undefined) return loadModule();
  const known = others.get(wasm) ?? compile(wasm);
  others.set(wasm, known);
  return known;
}

async function compile(bytes: Uint8Array): Promise<CoreModule> {
  return {
    module: await WebAssembly.compile(bytes as Uint8Array<ArrayBuffer>),
    sha256: createHash('sha256').update(bytes).digest(),
  };
}

/** Hash of the core's WebAssembly: two cores with the same hash make the same plans. */
export async function coreSha256(): Promise<string> {
  const { sha256 } = await loadModule();
  return Buffer.from(sha256).toString('hex');
}

export class WasmCore {
  readonly #memory: WebAssembly.Memory;
  readonly #exports: CoreExports;
  readonly #sha256: Uint8Array;
  #config: ResolvedCoreConfig | null = null;
  #failure: Error | null = null;

  /** As it was configured, with what was left out filled in. Not known of a core made from a snapshot. */
  get config(): ResolvedCoreConfig {
    if (this.#config === null)
      throw new Error('a core that was made from a snapshot does not know its configuration');
    return this.#config;
  }

  /** Hash of its WebAssembly: two cores with the same hash make the same plans. */
  get sha256(): string {
    return Buffer.from(this.#sha256).toString('hex');
  }

  /** A configured core. Throws a KadenzError when the configuration is refused. */
  static async create(config: CoreConfig, { wasm }: { wasm?: Uint8Array } = {}): Promise<WasmCore> {
    const resolved = resolveCoreConfig(config);
    const module = await moduleOf(wasm);
    const core = new WasmCore(module, WasmCore.#requiredPages(module, resolved));
    core.#config = resolved;
    const configure = encodeConfigure(0, resolved);
    const output = Output.getRootAsOutput(new flatbuffers.ByteBuffer(core.apply(configure)));
    const code = output.ackCode(0);
    if (output.ackCommandLength() !== 1 || code === null)
      throw new Error('the core did not acknowledge Configure');
    if (code !== ErrorCode.none) {
      throw errorFromWire(code, { value: output.ackValue(0) ?? 0n, limit: output.ackLimit(0) ?? 0n });
    }
    return core;
  }

  /** Pages of memory that this configuration takes. Asked of a small instance that is then dropped. */
  static #requiredPages(module: CoreModule, config: ResolvedCoreConfig): number {
    const probe = new WasmCore(module, PROBE_PAGES);
    const bytes = probe.#call((core) =>
      core.required_bytes(
        config.maxNumSeqs,
        config.maxNumBatchedTokens,
        config.maxModelLen,
        config.numBlocks,
        config.blockSize,
        config.maxNumRequests,
        config.tokenHeapBytes % 2 ** 32,
        Math.floor(config.tokenHeapBytes / 2 ** 32),
      ),
    );
    if (bytes === 0n) {
      throw new KadenzError(
        'invalid_config',
        'This configuration takes 4 GiB of memory or more for the scheduler, and less is all it can have. Lower maxNumSeqs, ' +
          'maxModelLen, maxNumBatchedTokens, numBlocks, maxNumRequests or tokenHeapBytes.',
        { limit: 2 ** 32 },
      );
    }
    return Math.max(PROBE_PAGES, Math.ceil(Number(BigInt.asUintN(64, bytes)) / PAGE_BYTES));
  }

  /** A core in the state of a snapshot that the same version of the core made. */
  static async fromSnapshot(snapshot: Uint8Array, { wasm }: { wasm?: Uint8Array } = {}): Promise<WasmCore> {
    const module = await moduleOf(wasm);
    const core = new WasmCore(module, readSnapshotHeader(snapshot, module.sha256).pages);
    core.restore(snapshot);
    return core;
  }

  private constructor({ module, sha256 }: CoreModule, pages: number) {
    this.#sha256 = sha256;
    this.#memory = allocate(pages);
    const instance = new WebAssembly.Instance(module, {
      env: {
        memory: this.#memory,
        abort: (message: number, file: number, line: number, column: number) => {
          const where = `${this.#string(file)}:${line}:${column}`;
          throw new Error(`the core stopped on a broken invariant: ${this.#string(message)} (${where})`);
        },
      },
    });
    this.#exports = instance.exports as unknown as CoreExports;
  }

  /** Bytes of a Command in, bytes of an Output back. A refusal, of malformed bytes too, is an acknowledgement in the Output. */
  apply(command: Uint8Array): Uint8Array {
    return this.#call((core) => {
      this.#copyIn(core.command_buffer(command.byteLength), command, 'command');
      return this.#message(core.apply(command.byteLength));
    });
  }

  /** Bytes of the next Instruction; null when there is nothing to do now, or as many steps are in flight as may be. */
  schedule(): Uint8Array | null {
    return this.#call((core) => {
      const address = core.schedule();
      return address === 0 ? null : this.#message(address);
    });
  }

  /** Bytes of the Result of the oldest instruction in flight in, bytes of an Output back. */
  commit(result: Uint8Array): Uint8Array {
    return this.#call((core) => {
      this.#copyIn(core.result_buffer(result.byteLength), result, 'result');
      return this.#message(core.commit(result.byteLength));
    });
  }

  /** Bytes of a Stats. */
  stats(): Uint8Array {
    return this.#call((core) => this.#message(core.stats()));
  }

  /** Bytes of an Inventory: who is in the core. For people and tools. */
  inventory(): Uint8Array {
    return this.#call((core) => this.#message(core.inventory()));
  }

  /** Checks every invariant; throws the sentence of the first that is broken. For tests and simulations: it reads everything. */
  checkIntegrity(): void {
    const rule = this.#call((core) => core.check_integrity());
    if (rule !== 0) throw new Error(`integrity: ${integrityRule(rule)}`);
  }

  /** Digest of all instructions so far, chained: equal on every machine that was given the same commands and results. */
  digest(): bigint {
    return BigInt.asUintN(
      64,
      this.#call((core) => core.digest()),
    );
  }

  /** All state, in a buffer of its own. */
  snapshot(): Uint8Array {
    return this.#call((core) => {
      const usedBytes = core.used_bytes() >>> 0;
      const snapshot = new Uint8Array(SNAPSHOT_HEADER_BYTES + usedBytes);
      const pages = this.#memory.buffer.byteLength / PAGE_BYTES;
      writeSnapshotHeader(snapshot, { pages, usedBytes, sha256: this.#sha256 });
      snapshot.set(new Uint8Array(this.#memory.buffer, 0, usedBytes), SNAPSHOT_HEADER_BYTES);
      return snapshot;
    });
  }

  /** Goes back to a snapshot of a core of the same size. Views handed out before are void. */
  restore(snapshot: Uint8Array): void {
    const { pages, usedBytes } = readSnapshotHeader(snapshot, this.#sha256);
    const ownPages = this.#memory.buffer.byteLength / PAGE_BYTES;
    if (pages !== ownPages) {
      throw new KadenzError(
        'invalid_snapshot',
        `The snapshot is of a core with ${pages} pages of memory; this one has ${ownPages}. ` +
          'Restore it into a core of the same configuration.',
        { value: pages, limit: ownPages },
      );
    }
    this.#call((core) => {
      const usedBefore = core.used_bytes() >>> 0;
      const memory = new Uint8Array(this.#memory.buffer);
      memory.set(snapshot.subarray(SNAPSHOT_HEADER_BYTES, SNAPSHOT_HEADER_BYTES + usedBytes));
      if (usedBefore > usedBytes) memory.fill(0, usedBytes, usedBefore);
    });
  }

  #call<T>(body: (core: CoreExports) => T): T {
    if (this.#failure !== null) throw this.#failure;
    try {
      return body(this.#exports);
    } catch (error) {
      if (!(error instanceof KadenzError))
        this.#failure = error instanceof Error ? error : new Error(String(error));
      throw error;
    }
  }

  #copyIn(address: number, bytes: Uint8Array, what: string): void {
    if (address === 0) {
      throw new KadenzError(
        'message_too_large',
        `A ${what} of ${bytes.byteLength} bytes is larger than the core's buffer for it; send it in parts.`,
        { value: bytes.byteLength },
      );
    }
    new Uint8Array(this.#memory.buffer, address >>> 0, bytes.byteLength).set(bytes);
  }

  #message(address: number): Uint8Array {
    return new Uint8Array(this.#memory.buffer, address >>> 0, this.#exports.message_bytes() >>> 0);
  }

  /** An AssemblyScript string: UTF-16, its size in bytes in the word before it. */
  #string(address: number): string {
    if (address === 0) return '';
    const bytes = new DataView(this.#memory.buffer).getUint32((address >>> 0) - 4, true);
    return Buffer.from(this.#memory.buffer, address >>> 0, bytes).toString('utf16le');
  }
}

function allocate(pages: number): WebAssembly.Memory {
  try {
    return new WebAssembly.Memory({ initial: pages, maximum: pages });
  } catch (cause) {
    throw new KadenzError(
      'out_of_memory',
      `The machine did not give the scheduler ${pages * PAGE_BYTES} bytes of memory; free some, ` +
        'or lower maxNumRequests, maxModelLen or numBlocks.',
      { value: pages * PAGE_BYTES, cause },
    );
  }
}
