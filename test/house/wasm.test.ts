// The core's module is a function of its memory: nothing comes in but memory and abort, and nothing is kept outside of the memory.

import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { filesUnder, repositoryPath } from './files.js';

const wasm = readFileSync(repositoryPath('build/core.wasm'));
const module = new WebAssembly.Module(wasm);

const GLOBAL_SECTION = 6;
const END = 0x0b;

/** Walks the bytes of a module, one section at a time. */
class Reader {
  constructor(
    readonly bytes: Uint8Array,
    public at = 0,
  ) {}

  byte(): number {
    const byte = this.bytes[this.at];
    if (byte === undefined) throw new Error('the module ends early');
    this.at += 1;
    return byte;
  }

  leb(): number {
    let value = 0;
    for (let shift = 0; ; shift += 7) {
      const byte = this.byte();
      value += (byte & 0x7f) * 2 ** shift;
      if (byte < 0x80) return value;
    }
  }

  /** A constant expression: skips its opcodes and their operands. */
  expression(): void {
    for (let opcode = this.byte(); opcode !== END; opcode = this.byte()) {
      if (opcode === 0x43) this.at += 4;
      else if (opcode === 0x44) this.at += 8;
      else if ([0x41, 0x42, 0x23].includes(opcode)) while (this.byte() >= 0x80);
      else throw new Error(`a global starts as opcode ${opcode}, which this test does not know`);
    }
  }
}

/** For each global that the module defines, whether it is mutable. */
function globalsOf(bytes: Uint8Array): boolean[] {
  const reader = new Reader(bytes, 8);
  while (reader.at < bytes.byteLength) {
    const section = reader.byte();
    const size = reader.leb();
    if (section !== GLOBAL_SECTION) {
      reader.at += size;
      continue;
    }
    return Array.from({ length: reader.leb() }, () => {
      reader.byte();
      const mutable = reader.byte() === 1;
      reader.expression();
      return mutable;
    });
  }
  return [];
}

describe('build/core.wasm', () => {
  it('imports env.memory and env.abort and nothing else: no clock, no random source', () => {
    const imports = WebAssembly.Module.imports(module).map(
      ({ module: from, name, kind }) => `${from}.${name}: ${kind}`,
    );
    expect(imports.sort()).toEqual(['env.abort: function', 'env.memory: memory']);
  });

  it('has no mutable global: a copy of the memory is the whole state', () => {
    expect(globalsOf(wasm)).not.toContain(true);
  });

  it('exports functions and the memory only, those that the core entry calls', () => {
    const exports = WebAssembly.Module.exports(module);
    expect(exports.filter(({ kind }) => kind !== 'function').map(({ name }) => name)).toEqual(['memory']);
    expect(
      exports
        .map(({ name }) => name)
        .filter((name) => name !== 'memory')
        .sort(),
    ).toEqual([
      ...[
        'apply',
        'check_integrity',
        'command_buffer',
        'commit',
        'digest',
        'inventory',
        'message_bytes',
        'required_bytes',
      ],
      ...['result_buffer', 'schedule', 'stats', 'used_bytes'],
    ]);
  });

  it('has no start function, which would run before a restore', () => {
    const reader = new Reader(wasm, 8);
    const sections: number[] = [];
    while (reader.at < wasm.byteLength) {
      sections.push(reader.byte());
      const size = reader.leb();
      reader.at += size;
    }
    expect(sections).not.toContain(8);
    expect(sections).toContain(10);
  });
});

describe('assembly/', () => {
  // asc 0.28.20 at -O3 turns i64.extend_i32_u of a signed 32-bit load into i64.load32_s: the sign comes through. Mask instead:
  // `<u64>value & 0xffffffff`, or load the value unsigned.
  it('does not widen by way of u32, which the optimiser gets wrong for a value loaded as i32', () => {
    const risky = filesUnder('assembly', /\.ts$/).filter((path) =>
      /<[ui]64>\s*\(?\s*<u32>|[ui]64\(u32\(/.test(readFileSync(repositoryPath(path), 'utf8')),
    );
    expect(risky).toEqual([]);
  });
});

describe('the test of globals', () => {
  const header = [0x00, 0x61, 0x73, 0x6d, 1, 0, 0, 0];

  it('sees a mutable global where there is one', () => {
    expect(
      globalsOf(Uint8Array.from([...header, 6, 11, 2, 0x7f, 0, 0x41, 0, END, 0x7f, 1, 0x41, 7, END])),
    ).toEqual([false, true]);
  });
});
