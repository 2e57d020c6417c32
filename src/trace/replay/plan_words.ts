// An instruction in words, for the one who has to compare it with another.

import type { InstructionObject, StepPlanObject } from '../../core/index.js';
import { fieldName, shown } from './difference.js';
import type { LocatedStep } from './locate.js';

const MAX_SEQUENCES = 8;

/** One sentence. */
export function planInWords(located: LocatedStep): string {
  const { instruction } = located;
  if (instruction.type !== 'stepPlan') return controlInWords(instruction);
  const { sequences, numTokens, samples, scores, opens, tableChanges, copies } = instruction;
  const named = sequences.slice(0, MAX_SEQUENCES).map((sequence) => sequenceInWords(sequence, located));
  if (sequences.length > MAX_SEQUENCES) named.push(`${sequences.length - MAX_SEQUENCES} sequences more`);
  const counts = [
    [samples.length, 'sampled'],
    [scores.length, 'scored'],
    [opens.length, 'slots opened'],
    [tableChanges.length, 'blocks given'],
    [copies.length, 'blocks copied'],
  ] as const;
  const others = counts.filter(([count]) => count > 0).map(([count, what]) => `${count} ${what}`);
  return `${plural(numTokens, 'row')} (${named.join('; ')}), ${others.join(', ')}`;
}

function sequenceInWords(
  { slot, start, numTokens }: StepPlanObject['sequences'][number],
  located: LocatedStep,
) {
  const owner = located.ownerOf(slot);
  const who = owner === null ? `slot ${slot}` : `request ${owner.request} sample ${owner.sample}`;
  return numTokens === 1 ? `${who} at ${start}` : `${who} from ${start} to ${start + numTokens - 1}`;
}

function controlInWords(instruction: Exclude<InstructionObject, StepPlanObject>): string {
  const { type, step: _, weightVersion: __, ...rest } = instruction;
  const fields = Object.entries(rest).map(([name, value]) => `${fieldName([name])} ${shown(value)}`);
  return [fieldName([type]), ...fields].join(', ');
}

function plural(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? '' : 's'}`;
}
