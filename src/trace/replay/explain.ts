// From "step 17 differs" to request, field and both values: looks the step up (locate.ts) and takes the two plans or results apart.

import { decodeInstruction, type InstructionObject } from '../../core/index.js';
import { damageOfInstruction } from '../verify_messages.js';
import type { ResultPart } from './compare_results.js';
import { type Difference, fieldName, firstDifferentPart, type Id, type Part, shown } from './difference.js';
import type { LocatedStep } from './locate.js';
import { planInWords } from './plan_words.js';

/** What to look at: the instruction itself, or a part of its result. */
export type Aspect = { kind: 'plan'; recorded: Uint8Array | null } | { kind: 'result'; part: ResultPart };

const RECORD_WITH_PLANS =
  'This trace has digests only, which tell that a plan differs and not where. Record with plans ' +
  '(--record-plans, or record: { path, plans: true }) to see the field.';

/** @param located the step as the replay makes it */
export function explained(difference: Difference, aspect: Aspect, located: LocatedStep | null): Difference {
  if (located === null) return difference;
  if (aspect.kind === 'result') {
    const owner = located.entryOf(aspect.part.kind, aspect.part.entry);
    return { ...difference, ...owner, hints: [...difference.hints, ...aboutWeights(located)] };
  }
  const words = `The replayed plan of this step: ${planInWords(located)}.`;
  const hints = [...difference.hints, words];
  if (aspect.recorded === null) return { ...difference, hints: [...hints, RECORD_WITH_PLANS] };
  const damage = damageOfInstruction(aspect.recorded);
  if (damage !== null) {
    const left = `no instruction: ${damage}`;
    return { ...difference, field: 'plan', left, right: 'an instruction', hints };
  }
  const part = firstDifferentInPlans(decodeInstruction(aspect.recorded), located.instruction);
  if (part !== null) return { ...difference, ...planPart(part, located), hints };
  return { ...difference, hints: [...hints, ...sameMeaning(aspect.recorded, located.bytes)] };
}

function aboutWeights({ instruction }: LocatedStep): string[] {
  const { weightVersion } = instruction;
  if (Number(weightVersion) === 0) return [];
  return [
    `The run had taken new weights by this step (version ${weightVersion}). A trace holds no weights, so only a model with those weights ` +
      'can give its tokens again.',
  ];
}

/** In the order in which a person would ask: what is computed and sampled first, then what was prepared for it. */
export function firstDifferentInPlans(left: InstructionObject, right: InstructionObject): Part | null {
  return firstDifferentPart(inOrder(left), inOrder(right));
}

function inOrder(instruction: InstructionObject): object {
  if (instruction.type !== 'stepPlan') return instruction;
  const { step, weightVersion, type, sequences, samples, scores, ...rest } = instruction;
  return { step, weightVersion, type, sequences, samples, scores, ...rest };
}

/** The part of a plan that differs, and whose it is by the slot that it names. */
export function planPart(
  part: Part,
  located: LocatedStep,
): Pick<Difference, 'request' | 'sample' | 'position' | 'field' | 'left' | 'right'> {
  const [column, index] = part.path;
  const entry = entryAt(located.instruction, column, index);
  const slot = entry === null ? null : slotOf(entry, part);
  const owner = slot === null ? null : located.ownerOf(slot);
  return {
    request: owner?.request ?? (null as Id | null),
    sample: owner?.sample ?? null,
    position: entry === null ? null : (numberIn(entry, 'position') ?? numberIn(entry, 'start')),
    field: fieldName(['plan', ...part.path]),
    left: shown(part.left),
    right: shown(part.right),
  };
}

/** An entry that one side does not have is the value that differs. */
function slotOf(entry: object, part: Part): number | null {
  return numberIn(entry, 'slot') ?? (part.left instanceof Object ? numberIn(part.left, 'slot') : null);
}

function entryAt(plan: object, column: unknown, index: unknown): object | null {
  if (typeof column !== 'string' || typeof index !== 'number') return null;
  const entry = (plan as Record<string, unknown[] | undefined>)[column]?.[index];
  return entry instanceof Object ? entry : {};
}

function numberIn(entry: object, name: string): number | null {
  const value = (entry as Record<string, unknown>)[name];
  return typeof value === 'number' ? value : null;
}

function sameMeaning(recorded: Uint8Array, replayed: Uint8Array): string[] {
  const at = recorded.findIndex((byte, i) => byte !== replayed[i]);
  if (at === -1 && recorded.byteLength === replayed.byteLength) {
    return [
      'The recorded plan of this step is the replayed one, byte for byte: the digest itself was changed, or that of a step before was.',
    ];
  }
  const where = at === -1 ? Math.min(recorded.byteLength, replayed.byteLength) : at;
  return [
    `Both plans say the same in other bytes, from byte ${where} on: they were laid out by different builds.`,
  ];
}
