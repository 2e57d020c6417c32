import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { encodeCommand, encodeConfigure } from '../../src/core/commands.js';
import { resolveCoreConfig } from '../../src/core/config.js';
import { encodeResult } from '../../src/core/results.js';
import { CppReader } from './cpp_reader.js';
import { EXAMPLE_COMMANDS, EXAMPLE_CONFIG, EXAMPLE_RESULT } from './examples.js';
import { flipped, truncations } from './mutations.js';
import { type Kind, WireModule } from './wire_module.js';

const NUM_FLIPS = 2_000;

let assembly: WireModule;
let cpp: CppReader;

beforeAll(async () => {
  assembly = await WireModule.compile();
  cpp = new CppReader();
});
afterAll(() => cpp.close());

const commands = () => [
  encodeConfigure(0, resolveCoreConfig(EXAMPLE_CONFIG)),
  ...EXAMPLE_COMMANDS.map(({ command }) => encodeCommand(7, command)),
];

/** Verifies each message where one byte read too many traps, reads those that pass, and says which passed. */
function accepted(kind: Kind, messages: readonly Uint8Array[]): boolean[] {
  return messages.map((message) => {
    const valid = assembly.verify(kind, message);
    if (valid && (kind === 'command' || kind === 'result')) assembly.read(kind, message);
    return valid;
  });
}

/** Our verifier may be stricter than flatc's, never laxer. */
function expectNeverLaxer(kind: Kind, messages: readonly Uint8Array[]): void {
  const ours = accepted(kind, messages);
  const theirs = cpp.verify(kind, messages);
  expect(theirs).toHaveLength(messages.length);
  const lax = messages.findIndex((_, i) => ours[i] && !theirs[i]);
  expect(lax, `message ${lax} is accepted, and flatc's verifier refuses it`).toBe(-1);
}

describe('the AssemblyScript verifier', () => {
  it('refuses a command or a result that is cut off anywhere, unless only unused bytes are gone', () => {
    for (const message of commands()) {
      const messages = truncations(message);
      expectNeverLaxer('command', messages);
      expect(accepted('command', messages.slice(0, -8))).not.toContain(true);
    }
    const messages = truncations(encodeResult(EXAMPLE_RESULT));
    expectNeverLaxer('result', messages);
    expect(accepted('result', messages.slice(0, -8))).not.toContain(true);
  });

  it(`reads nothing outside of a command with flipped bits, and accepts none that flatc refuses (seeds 0-${NUM_FLIPS - 1})`, () => {
    const messages = commands();
    expectNeverLaxer(
      'command',
      Array.from({ length: NUM_FLIPS }, (_, seed) => flipped(messages[seed % messages.length]!, seed)),
    );
    // The command with most structure gets as many again.
    expectNeverLaxer(
      'command',
      Array.from({ length: NUM_FLIPS }, (_, seed) => flipped(messages[1]!, seed)),
    );
  });

  it('reads nothing outside of results, instructions, outputs and statistics with flipped bits either', () => {
    const samples: [Kind, Uint8Array][] = [
      ['result', encodeResult(EXAMPLE_RESULT)],
      ['instruction', assembly.writeStepPlan(3)],
      ['output', assembly.writeOutput(2)],
      ['stats', assembly.writeStats()],
    ];
    for (const [kind, message] of samples) {
      const hostile = Array.from({ length: NUM_FLIPS }, (_, seed) => flipped(message, seed));
      expectNeverLaxer(kind, hostile);
      const valid = accepted(kind, hostile).filter(Boolean).length;
      expect(valid, `${kind}: flips that do no harm, and flips that do`).toBeGreaterThan(0);
      expect(valid).toBeLessThan(NUM_FLIPS);
    }
  });

  it('refuses a union of a type that the schema does not have', () => {
    const message = encodeCommand(7, { type: 'shutdown' });
    const at = message.indexOf(14);
    expect(assembly.verify('command', message)).toBe(true);
    message[at] = 15;
    expect(assembly.verify('command', message)).toBe(false);
  });

  it('refuses empty bytes and noise', () => {
    expect(assembly.verify('command', new Uint8Array(0))).toBe(false);
    expect(assembly.verify('command', new Uint8Array(64).fill(0xff))).toBe(false);
    expect(assembly.verify('command', new Uint8Array(64))).toBe(false);
  });
});
