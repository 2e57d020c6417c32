// Compares a plan of the core with the model's, entry by entry. The core says slots and blocks where the model says sequences and blocks
// of its own, so the two are matched as they appear: a slot stands for the sequence that it was opened for, a block of the core for the
// model's block that was put at the same place of the same table. Two living blocks of the model never share one of the core.
import { isDeepStrictEqual } from 'node:util';
import type { InstructionObject, StepPlanObject } from '../support/core_types.js';
import type { NaiveBlock, NaiveInstruction, NaiveSequence, NaiveStep } from './naive_types.js';

export function mustEqual(what: string, core: unknown, model: unknown): void {
  if (isDeepStrictEqual(core, model)) return;
  throw new Error(`${what}\n  core:  ${JSON.stringify(core)}\n  model: ${JSON.stringify(model)}`);
}

const nameOf = (sequence: NaiveSequence | undefined) =>
  sequence ? `${sequence.request.input.id}/${sequence.sample}` : 'nobody';

export class PlanComparison {
  private readonly sequenceOf = new Map<number, NaiveSequence>();
  private readonly slotOf = new Map<NaiveSequence, number>();
  private readonly modelBlockOf = new Map<number, NaiveBlock>();
  private readonly coreBlockOf = new Map<NaiveBlock, number>();

  constructor(private readonly eosTokenIds: number[]) {}

  compare(core: InstructionObject, model: NaiveInstruction): void {
    const at = `step ${model.step}`;
    mustEqual(`${at}: number`, core.step, model.step);
    mustEqual(`${at}: weight version`, Number(core.weightVersion), model.weightVersion);
    if (model.kind === 'control') {
      mustEqual(`${at}: work`, core.type, model.work.type);
      return;
    }
    if (core.type !== 'stepPlan') throw new Error(`${at}: the core gives ${core.type}, the model a plan`);
    this.compareOpens(at, core, model);
    this.compareTables(at, core, model);
    mustEqual(
      `${at}: copies`,
      core.copies,
      model.copies.map(({ source, target }) => ({
        source: this.coreBlockOf.get(source),
        target: this.coreBlockOf.get(target),
      })),
    );
    mustEqual(
      `${at}: sequences`,
      core.sequences.map(({ slot, start, tokenIds }) => [this.name(slot), start, tokenIds]),
      model.sequences.map(({ sequence, start, tokenIds }) => [nameOf(sequence), start, tokenIds]),
    );
    mustEqual(
      `${at}: samples`,
      core.samples.map(({ slot, row }) => [this.name(slot), row]),
      model.samples.map(({ sequence, row }) => [nameOf(sequence), row]),
    );
    mustEqual(
      `${at}: scores`,
      core.scores.map(({ slot, row, tokenId }) => [this.name(slot), row, tokenId]),
      model.scores.map(({ sequence, row, tokenId }) => [nameOf(sequence), row, tokenId]),
    );
  }

  private name(slot: number): string {
    return nameOf(this.sequenceOf.get(slot));
  }

  private compareOpens(at: string, core: StepPlanObject, model: NaiveStep): void {
    mustEqual(`${at}: number of opens`, core.opens.length, model.opens.length);
    core.opens.forEach((open, i) => {
      const { sequence, tokenIds } = model.opens[i]!;
      const { input } = sequence.request;
      this.sequenceOf.set(open.slot, sequence);
      this.slotOf.set(sequence, open.slot);
      const penalised =
        input.repetitionPenalty !== 1 || input.presencePenalty !== 0 || input.frequencyPenalty !== 0;
      const guarded = [...(input.ignoreEos ? [] : this.eosTokenIds), ...input.stopTokenIds];
      mustEqual(
        `${at}: open of ${nameOf(sequence)}`,
        {
          seed: Number(open.params.seed),
          sample: open.sample,
          promptTokens: open.promptTokens,
          adapter: open.adapter,
          history: open.historyTokenIds,
          stops: open.stopTokenIds,
          bias: open.bias,
        },
        {
          seed: input.seed,
          sample: sequence.sample,
          promptTokens: input.promptTokenIds.length,
          adapter: input.adapter,
          history: penalised ? tokenIds : [],
          stops: input.minTokens > 0 ? guarded : [],
          bias: input.logitBias,
        },
      );
    });
    for (const [sequence, slot] of this.slotOf) {
      if (!sequence.hasSlot) this.slotOf.delete(sequence);
      else if (sequence.opened && this.sequenceOf.get(slot) !== sequence) {
        throw new Error(`${at}: slot ${slot} is opened while ${nameOf(sequence)} has it`);
      }
    }
  }

  private compareTables(at: string, core: StepPlanObject, model: NaiveStep): void {
    const place = (sequence: string, index: number) => `${sequence} entry ${index}`;
    const modelAt = new Map(
      model.table.map(({ sequence, index, block }) => [place(nameOf(sequence), index), block]),
    );
    const coreAt = new Map(
      core.tableChanges.map(({ slot, index, block }) => [place(this.name(slot), index), block]),
    );
    mustEqual(`${at}: table entries`, [...coreAt.keys()].sort(), [...modelAt.keys()].sort());
    for (const [entry, coreBlock] of coreAt) this.match(`${at}: ${entry}`, coreBlock, modelAt.get(entry)!);
  }

  private match(at: string, coreBlock: number, modelBlock: NaiveBlock): void {
    const known = this.coreBlockOf.get(modelBlock);
    if (known !== undefined) {
      mustEqual(`${at}: block`, coreBlock, known);
      return;
    }
    const before = this.modelBlockOf.get(coreBlock);
    if (before && (before.owners.size > 0 || before.key !== null)) {
      throw new Error(`${at}: the core gives block ${coreBlock} out while it is held or cached`);
    }
    this.coreBlockOf.set(modelBlock, coreBlock);
    this.modelBlockOf.set(coreBlock, modelBlock);
  }
}
