import * as flatbuffers from 'flatbuffers';
import { describe, expect, it } from 'vitest';
import { decodeInstruction } from '../../src/core/index.js';
import { Instruction, StepPlan } from '../../src/generated/index.js';
import { TraceReader } from '../../src/trace/index.js';
import { firstDifferentResult } from '../../src/trace/replay/compare_results.js';
import { damageOfInstruction, damageOfResult } from '../../src/trace/verify_messages.js';
import { seededIntegers } from './damage.js';
import { goldenPath } from './make_golden.js';
import { SCENARIOS } from './scenarios.js';

const instructions: Uint8Array[] = [];
const results: Uint8Array[] = [];
for (const name of Object.keys(SCENARIOS)) {
  const reader = await TraceReader.open(goldenPath(name));
  for (const event of reader.events()) {
    if (event.kind !== 'step') continue;
    instructions.push(event.plan!.slice());
    results.push(event.result.slice());
  }
  reader.close();
}

/** A plan that opens slots and samples: the first one of the fan-out. */
function planWith(change: (plan: StepPlan) => void): Uint8Array {
  const bytes = instructions.find((instruction) => {
    const object = decodeInstruction(instruction);
    return object.type === 'stepPlan' && object.opens.length > 2 && object.sequences.length > 1;
  })!;
  const copy = bytes.slice();
  change(Instruction.getRootAsInstruction(new flatbuffers.ByteBuffer(copy)).work(new StepPlan()));
  return copy;
}

const VALUES = [0, 1, 5, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 0x0001_0000];

/** The message with one word changed, at a random place. */
function scrambled(bytes: Uint8Array, random: (below: number) => number): Uint8Array {
  const copy = bytes.slice();
  const at = 4 * random(Math.floor(copy.byteLength / 4));
  new DataView(copy.buffer).setUint32(at, VALUES[random(VALUES.length)]!, true);
  return copy;
}

describe('the verification of recorded instructions', () => {
  it('accepts every instruction of the golden traces', () => {
    expect(instructions.length).toBeGreaterThan(100);
    expect(new Set(instructions.map((bytes) => decodeInstruction(bytes).type)).size).toBeGreaterThan(4);
    for (const bytes of instructions) expect(damageOfInstruction(bytes)).toBeNull();
  });

  it.each([
    [
      'rows that are not there',
      (plan: StepPlan) => plan.sequenceNumTokensArray()!.fill(1_000_000_000),
      /columns differ/,
    ],
    [
      'a sample of a row that does not exist',
      (plan: StepPlan) => plan.sampleRowArray()!.fill(4096),
      /a row does not exist/,
    ],
    ['ends that do not ascend', (plan: StepPlan) => plan.openStopEndArray()!.fill(7, 0, 1), /do not ascend/],
  ])('refuses %s', (_, change, sentence) => {
    expect(damageOfInstruction(planWith(change))).toMatch(sentence);
  });

  it('accepts nothing that can not be read', () => {
    const random = seededIntegers(11);
    let numRefused = 0;
    for (let i = 0; i < 5000; i += 1) {
      const bytes = scrambled(instructions[random(instructions.length)]!, random);
      if (damageOfInstruction(bytes) === null) decodeInstruction(bytes);
      else numRefused += 1;
    }
    expect(numRefused).toBeGreaterThan(500);
  });
});

describe('the verification of recorded results', () => {
  it('accepts every result of the golden traces', () => {
    for (const bytes of results) expect(damageOfResult(bytes)).toBeNull();
  });

  it('accepts nothing that can not be compared', () => {
    const random = seededIntegers(12);
    let numRefused = 0;
    for (let i = 0; i < 5000; i += 1) {
      const bytes = results[random(results.length)]!;
      const changed = scrambled(bytes, random);
      if (damageOfResult(changed) === null) firstDifferentResult(bytes, changed);
      else numRefused += 1;
    }
    expect(numRefused).toBeGreaterThan(500);
  });
});
