// Compiles native/test/wire_golden.cc for the tests of this folder and runs it.

import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Kind } from './wire_module.js';

const NATIVE = fileURLToPath(new URL('../../native', import.meta.url));

export class CppReader {
  readonly #folder = mkdtempSync(join(tmpdir(), 'kadenz-wire-cpp-'));
  readonly #program = join(this.#folder, 'wire_golden');

  constructor() {
    const includes = ['-I', join(NATIVE, 'generated'), '-I', join(NATIVE, 'generated', 'include')];
    const source = join(NATIVE, 'test', 'wire_golden.cc');
    execFileSync(process.env.CXX ?? 'c++', ['-std=c++20', '-O0', ...includes, source, '-o', this.#program]);
  }

  close(): void {
    rmSync(this.#folder, { recursive: true });
  }

  #file(bytes: Uint8Array): string {
    const path = join(this.#folder, 'message.bin');
    writeFileSync(path, bytes);
    return path;
  }

  /** Verifies (throws if that fails) and prints every field. */
  dump(kind: Kind, message: Uint8Array): string {
    return execFileSync(this.#program, ['dump', kind, this.#file(message)], { encoding: 'utf8' });
  }

  /** Whether the C++ verifier accepts each message. */
  verify(kind: Kind, messages: readonly Uint8Array[]): boolean[] {
    const parts = messages.flatMap((message) => [
      Buffer.from(Uint32Array.of(message.byteLength).buffer),
      message,
    ]);
    const path = this.#file(Buffer.concat(parts));
    const answers = execFileSync(this.#program, ['verify', kind, path], { encoding: 'utf8' });
    return Array.from(answers, (answer) => answer === '1');
  }

  writeResult(): Uint8Array {
    const path = join(this.#folder, 'result.bin');
    execFileSync(this.#program, ['write-result', path]);
    return new Uint8Array(readFileSync(path));
  }
}
