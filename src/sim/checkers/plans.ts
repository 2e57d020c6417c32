// Reads each plan as it is made: whose slots it uses, whether it keeps its limits, and whether its admissions are in
// order.

import type { ResolvedCoreConfig } from '../../core/index.js';
import { SampleState } from '../account.js';
import { fail } from '../failure.js';
import { rootOf } from '../host/oracle.js';
import type { SimulatedHost } from '../host/simulated_host.js';
import type { Ledger } from '../ledger.js';
import { SequenceView } from '../sequence_view.js';
import type { PlanView } from '../step_plan.js';
import { checkAdmission } from './fairness.js';

export interface Owners {
  sequences: SequenceView[];
  samples: SequenceView[];
  opened: SequenceView[];
}

export class PlanChecker {
  readonly #config: ResolvedCoreConfig;
  readonly #ledger: Ledger;
  readonly #host: SimulatedHost;
  readonly #slots: (SequenceView | undefined)[];
  /** Entry of the plan that computes for each slot; -1: none. */
  readonly #entryOfSlot: Int32Array;
  numRows = 0;

  constructor(config: ResolvedCoreConfig, ledger: Ledger, host: SimulatedHost) {
    this.#config = config;
    this.#ledger = ledger;
    this.#host = host;
    this.#slots = new Array(config.maxNumSeqs);
    this.#entryOfSlot = new Int32Array(config.maxNumSeqs);
  }

  planned(view: PlanView): Owners {
    this.#checkBudget(view);
    const opened = this.#open(view);
    this.#checkHistories(view, opened);
    const sequences = Array.from(view.sequenceSlot, (slot) => this.#ownerOf(slot));
    const samples = Array.from(view.sampleSlot, (slot) => this.#ownerOf(slot));
    this.#admit(view, opened);
    this.#checkSamples(view, sequences, samples);
    for (const { account, sample } of samples)
      if (!account.isLive(sample))
        fail('ends', `Sample ${sample} of request ${account.id} is planned after its end.`);
    return { sequences, samples, opened };
  }

  #checkBudget({ sequenceSlot, sequenceStart, sequenceNumTokens, tokenIds }: PlanView): void {
    const { maxNumBatchedTokens, maxNumSeqs, longPrefillTokenThreshold: cap, maxModelLen } = this.#config;
    let rows = 0;
    this.#entryOfSlot.fill(-1);
    for (let i = 0; i < sequenceSlot.length; i++) {
      const slot = sequenceSlot[i]!;
      const count = sequenceNumTokens[i]!;
      if (slot >= maxNumSeqs) fail('budget', `A sequence has slot ${slot}; there are ${maxNumSeqs}.`);
      if (this.#entryOfSlot[slot] !== -1) fail('budget', `Slot ${slot} is computed twice in one step.`);
      this.#entryOfSlot[slot] = i;
      if (count === 0) fail('budget', `Slot ${slot} is planned with no token.`);
      if (cap > 0 && count > cap)
        fail('budget', `Slot ${slot} computes ${count} tokens in one step; at most ${cap} were allowed.`);
      if (sequenceStart[i]! + count > maxModelLen)
        fail(
          'budget',
          `Slot ${slot} computes up to position ${sequenceStart[i]! + count} of ${maxModelLen}.`,
        );
      rows += count;
    }
    if (rows !== tokenIds.length) fail('budget', `A plan has ${tokenIds.length} tokens for ${rows} rows.`);
    if (rows === 0) fail('budget', 'A step computes nothing.');
    if (rows > maxNumBatchedTokens)
      fail('budget', `A step computes ${rows} tokens; its budget is ${maxNumBatchedTokens}.`);
    this.numRows += rows;
  }

  #open({ plan, openSlot, openSample, openPromptTokens, openAdapter }: PlanView): SequenceView[] {
    const opened: SequenceView[] = [];
    for (let i = 0; i < openSlot.length; i++) {
      const account = this.#ledger.bySeed.get(Number(plan.openParams(i)!.seed()));
      if (account === undefined)
        fail('host', `Slot ${openSlot[i]} is opened for a seed that no request has.`);
      const sample = openSample[i]!;
      if (sample >= account.samples.length)
        fail('delivery', `Sample ${sample} of request ${account.id} is started; it asked for fewer.`);
      if (!account.isLive(sample))
        fail('ends', `Sample ${sample} of request ${account.id} is started after its end.`);
      const adapter = account.draft.adapter ?? 0;
      if (openPromptTokens[i] !== account.numPromptTokens || openAdapter[i] !== adapter)
        fail(
          'host',
          `Request ${account.id} is opened with another prompt length or adapter than it asked for.`,
        );
      const root = rootOf(adapter, this.#host.generationOf(adapter), account.cacheSalt);
      const view = new SequenceView(account, sample, root, this.#config.blockSize);
      this.#slots[openSlot[i]!] = view;
      opened.push(view);
    }
    return opened;
  }

  /** Penalties are over all tokens known: a slot that needs them is opened with exactly these. */
  #checkHistories({ openHistoryEnd, historyTokenIds }: PlanView, opened: readonly SequenceView[]): void {
    let at = 0;
    for (const [i, { account, sample }] of opened.entries()) {
      const end = openHistoryEnd[i]!;
      const known = account.numPromptTokens + account.samples[sample]!.outputs.length;
      const expected = (account.draft.repetitionPenalty ?? 1) === 1 ? 0 : known;
      if (end - at !== expected)
        fail('host', `Request ${account.id} is opened with ${end - at} tokens of history, not ${expected}.`);
      for (let position = 0; at < end; at++, position++) {
        if (historyTokenIds[at] !== account.tokenAt(sample, position))
          fail('host', `Request ${account.id} is opened with another history than its tokens.`);
      }
    }
  }

  /** In the order of the plan. A prompt that is sampled has no leader any more: what is left of its request waits again. */
  #admit({ sampleSlot, sequenceStart, openSlot }: PlanView, opened: readonly SequenceView[]): void {
    const { maxNumSeqs } = this.#config;
    for (const [i, view] of opened.entries()) {
      const { account, sample } = view;
      const entry = this.#entryOfSlot[openSlot[i]!]!;
      if (entry !== -1) {
        checkAdmission(this.#ledger, { account, sample, maxNumSeqs });
        if (account.samples[sample]!.outputs.length === 0) account.leader = sample;
        if (!account.isStarted) account.cachedTokens = sequenceStart[entry]!;
        account.isStarted = true;
      }
      account.samples[sample]!.state = SampleState.open;
    }
    for (const slot of sampleSlot) {
      const { account, sample } = this.#ownerOf(slot);
      if (account.leader === sample) account.leader = -1;
    }
  }

  #checkSamples(
    { sampleRow, sampleSlot, sequenceNumTokens, sequenceStart }: PlanView,
    sequences: readonly SequenceView[],
    samples: readonly SequenceView[],
  ): void {
    let entry = 0;
    let lastRow = (sequenceNumTokens[0] ?? 0) - 1;
    for (let i = 0; i < samples.length; i++) {
      const row = sampleRow[i]!;
      while (lastRow < row && entry + 1 < sequences.length) lastRow += sequenceNumTokens[++entry]!;
      if (row !== lastRow) fail('budget', `Sample ${i} is taken after row ${row}, which ends no sequence.`);
      const view = samples[i]!;
      const computing = sequences[entry]!;
      if (
        view.account !== computing.account ||
        (view !== computing && this.#entryOfSlot[sampleSlot[i]!] !== -1)
      )
        fail('delivery', `Sample ${i} of a step is taken after a row of another sequence.`);
      const output = sequenceStart[entry]! + sequenceNumTokens[entry]! - view.account.numPromptTokens;
      if (output < 0 || output >= view.account.mostOutputs)
        fail(
          'delivery',
          `Request ${view.account.id} is sampled for output ${output}, outside of what it may have.`,
        );
    }
  }

  #ownerOf(slot: number): SequenceView {
    return this.#slots[slot] ?? fail('host', `Slot ${slot} is used and was never opened.`);
  }
}
