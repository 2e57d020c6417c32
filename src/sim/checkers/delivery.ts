// Holds what a commit delivers against what it must deliver: each token once, in order, at its position, equal to the
// oracle's, and each end with the reason that the tokens and the faults give.
//
// What must come is worked out from the clients' books, the plan and what was done to the step; the core's own state
// is not asked.

import { ErrorCode, FinishReason } from '../../generated/index.js';
import type { Account } from '../account.js';
import { fail } from '../failure.js';
import { drawOf, logprobOf, readingOf, tokenOf, type Vocabulary } from '../host/oracle.js';
import type { Ending, Ledger } from '../ledger.js';
import { describeFinish, type FinishView, type OutputView } from '../outputs.js';
import type { SequenceView } from '../sequence_view.js';
import type { StepInFlight } from '../step_in_flight.js';

/** What the host answered: the Result's columns, faults included. */
export interface Answer {
  /** Of the whole step. */
  code: ErrorCode;
  tokenIds: Int32Array;
  logprobs: Float32Array;
  /** By sample; empty: all are well. */
  rowCodes: readonly ErrorCode[];
}

export interface DeliveryOptions {
  vocabulary: Vocabulary;
  /** The heap for token ids was made small: samples may end for want of it. */
  hasSmallHeap: boolean;
}

const ENDINGS: Readonly<Record<number, Ending>> = {
  [FinishReason.stop]: 'stop',
  [FinishReason.length]: 'length',
  [FinishReason.abort]: 'abort',
  [FinishReason.error]: 'error',
};

export class DeliveryChecker {
  readonly #ledger: Ledger;
  readonly #vocabulary: Vocabulary;
  readonly #hasSmallHeap: boolean;
  /** Finishes of the output at hand that have been accounted for. */
  #at = 0;
  #numTokens = 0;

  constructor(ledger: Ledger, { vocabulary, hasSmallHeap }: DeliveryOptions) {
    this.#ledger = ledger;
    this.#vocabulary = vocabulary;
    this.#hasSmallHeap = hasSmallHeap;
  }

  /** @param weightVersion of the weights that the host computed the step with */
  committed(step: StepInFlight, answer: Answer, out: OutputView, weightVersion: number): void {
    this.#at = 0;
    this.#numTokens = 0;
    this.#checkStamp(step, out, weightVersion);
    this.#takeHeapEnds(out);
    if (answer.code !== ErrorCode.none) this.#failed(step, answer.code, out);
    else this.#sampled(step, answer, out, weightVersion);
    if (this.#numTokens !== out.numTokens)
      fail('delivery', `Step ${step.step} delivers ${out.numTokens} tokens; ${this.#numTokens} were due.`);
    if (this.#at !== out.finishes.length)
      fail(
        'ends',
        `Step ${step.step} ends ${describeFinish(out.finishes[this.#at]!)}, and nothing ended it.`,
      );
  }

  /** Ends the samples of finish entry `at`, whose reason somebody else has checked. */
  end(finish: FinishView): void {
    const account = this.#ledger.live.get(finish.request);
    if (account === undefined) fail('ends', `An end of no live request was told: ${describeFinish(finish)}.`);
    for (let sample = finish.sample; sample < finish.sample + finish.count; sample++) {
      if (sample >= account.samples.length || !account.isLive(sample))
        fail('ends', `A sample ended twice, or was never asked for: ${describeFinish(finish)}.`);
      this.#ledger.end(account, sample, ENDINGS[finish.reason]!);
    }
  }

  /** Room for tokens is the one end that no plan and no result announces. Only with a heap that was made small. */
  #takeHeapEnds({ finishes }: OutputView): void {
    for (; this.#hasSmallHeap && this.#at < finishes.length; this.#at++) {
      const finish = finishes[this.#at]!;
      if (finish.reason !== FinishReason.error || finish.code !== ErrorCode.out_of_token_memory) return;
      this.end(finish);
    }
  }

  #checkStamp(step: StepInFlight, out: OutputView, weightVersion: number): void {
    if (out.step !== step.step)
      fail('delivery', `The output of step ${step.step} says it is of step ${out.step}.`);
    if (step.weightVersion !== weightVersion || out.weightVersion !== weightVersion)
      fail(
        'weights',
        `Step ${step.step} ran with weights of version ${weightVersion}; its instruction says ${step.weightVersion} ` +
          `and its tokens are stamped ${out.weightVersion}.`,
      );
  }

  /** Everything that the step computed ends, and the samples that were fanned out behind it. */
  #failed(step: StepInFlight, code: ErrorCode, out: OutputView): void {
    const due = new Set<SequenceView>();
    const requests = new Set<Account>();
    for (const view of [...step.sequences, ...step.samples]) {
      view.isVoid = true;
      requests.add(view.account);
      // A prompt's leader that was preempted since is not started any more and goes on.
      if (view.account.isLive(view.sample) && view.account.samples[view.sample]!.outputs.length > 0)
        due.add(view);
    }
    for (; this.#at < out.finishes.length; this.#at++) {
      const finish = out.finishes[this.#at]!;
      const account = this.#ledger.live.get(finish.request);
      if (finish.reason !== FinishReason.error || finish.code !== code || !account || !requests.has(account))
        fail(
          'ends',
          `Step ${step.step} failed, and that does not explain this end: ${describeFinish(finish)}.`,
        );
      this.end(finish);
    }
    for (const { account, sample } of due)
      if (account.isLive(sample))
        fail(
          'ends',
          `Step ${step.step} failed, and sample ${sample} of request ${account.id} in it goes on.`,
        );
  }

  #sampled(step: StepInFlight, answer: Answer, out: OutputView, weightVersion: number): void {
    this.#advance(step, weightVersion);
    this.#checkScores(step, out);
    const { sampleRow, sequenceNumTokens } = step.view!;
    let entry = 0;
    let lastRow = (sequenceNumTokens[0] ?? 0) - 1;
    for (let i = 0; i < step.samples.length; i++) {
      while (lastRow < sampleRow[i]!) lastRow += sequenceNumTokens[++entry]!;
      const view = step.samples[i]!;
      if (!view.account.isLive(view.sample)) continue;
      if (view !== step.sequences[entry]) view.takeOver(step.sequences[entry]!);
      if (view.isVoid)
        fail(
          'ends',
          `Sample ${view.sample} of request ${view.account.id} builds on a step that failed, and goes on.`,
        );
      this.#deliver(view, i, answer, out);
    }
    this.#endScored(step, out);
  }

  /** What the step computed now stands in the KV of those that live. */
  #advance({ sequences, view, step }: StepInFlight, weightVersion: number): void {
    const { sequenceStart, sequenceNumTokens, tokenIds } = view!;
    let row = 0;
    for (let i = 0; i < sequences.length; i++) {
      const sequence = sequences[i]!;
      const { account, sample } = sequence;
      const start = sequenceStart[i]!;
      const end = start + sequenceNumTokens[i]!;
      if (!account.isLive(sample) || sequence.isVoid) {
        row += end - start;
        continue;
      }
      if (sequence.computed < 0) sequence.beginAt(start, weightVersion);
      if (sequence.computed !== start)
        fail(
          'oracle',
          `Step ${step} computes request ${account.id} from ${start}; ${sequence.computed} came before.`,
        );
      for (let position = start; position < end; position++, row++) {
        const tokenId = account.tokenAt(sample, position);
        const planned = tokenIds[row]!;
        if (tokenId === undefined || (planned >= 0 && planned !== tokenId))
          fail(
            'oracle',
            `Step ${step} computes position ${position} of request ${account.id}, sample ${sample}, with token ` +
              `${planned}; it is ${tokenId ?? 'not sampled yet'}.`,
          );
        sequence.append(tokenId, weightVersion);
      }
    }
  }

  #deliver(view: SequenceView, row: number, answer: Answer, out: OutputView): void {
    const { account, sample } = view;
    const { seed } = account;
    const code = answer.rowCodes[row] ?? ErrorCode.none;
    const tokenId = answer.tokenIds[row]!;
    const { size } = this.#vocabulary;
    if (code !== ErrorCode.none || tokenId < 0 || tokenId >= size) {
      const why = code === ErrorCode.none ? ErrorCode.token_out_of_range : code;
      this.#due(view, out, FinishReason.error, { code: why });
      return;
    }
    const position = view.computed;
    const output = position - account.numPromptTokens;
    const draw = drawOf(readingOf(view.kv, view.fold), { seed, sample, position });
    const expected = tokenOf(draw, this.#vocabulary, output + 1 === account.lengths[sample]);
    if (tokenId !== expected || answer.logprobs[row] !== Math.fround(logprobOf(draw)))
      fail(
        'oracle',
        `Output ${output} of request ${account.id}, sample ${sample}, was sampled as ${tokenId} (${answer.logprobs[row]}); ` +
          `its tokens give ${expected} (${logprobOf(draw)}): its KV is not its own.`,
      );
    if (account.samples[sample]!.outputs.length !== output)
      fail(
        'delivery',
        `Request ${account.id}, sample ${sample}, is sampled for output ${output} out of order.`,
      );
    if (this.#hasSmallHeap && this.#endsForWantOfHeap(view, out)) return;
    const at = this.#numTokens;
    const columns = out.output;
    if (
      at >= out.numTokens ||
      Number(columns.tokenRequest(at)) !== account.id ||
      columns.tokenSample(at) !== sample ||
      columns.tokenRow(at) !== row ||
      columns.tokenId(at) !== tokenId
    )
      fail(
        'delivery',
        `Sample ${row} of the step must deliver token ${tokenId} to request ${account.id}, sample ${sample}; ` +
          `the output has ${describeToken(out, at)}.`,
      );
    this.#numTokens += 1;
    this.#ledger.deliver(account, sample, tokenId);
    if (output + 1 >= account.leastOutputs && account.isStop(tokenId))
      this.#due(view, out, FinishReason.stop, { stopToken: tokenId });
    else if (output + 1 === account.mostOutputs) this.#due(view, out, FinishReason.length, {});
  }

  #endsForWantOfHeap({ account, sample }: SequenceView, out: OutputView): boolean {
    const finish = out.finishes[this.#at];
    if (finish?.code !== ErrorCode.out_of_token_memory) return false;
    if (finish.request !== account.id || finish.sample !== sample) return false;
    this.end(finish);
    this.#at += 1;
    return true;
  }

  /** The next end of the output must be this one. */
  #due(
    { account, sample }: SequenceView,
    out: OutputView,
    reason: FinishReason,
    { code = ErrorCode.none, stopToken = -1 }: { code?: ErrorCode; stopToken?: number },
  ): void {
    const due = { request: account.id, sample, count: 1, reason, stopToken, code };
    const told = out.finishes[this.#at];
    if (told === undefined || describeFinish(told) !== describeFinish(due))
      fail(
        'ends',
        `This end was due: ${describeFinish(due)}; told was ${told ? describeFinish(told) : 'none'}.`,
      );
    if (reason !== FinishReason.error) this.#checkScored(account, sample);
    this.end(told);
    this.#at += 1;
  }

  #checkScored(account: Account, sample: number): void {
    if (sample !== 0 || account.draft.promptLogprobs !== true) return;
    if (account.nextScore !== account.numPromptTokens)
      fail(
        'delivery',
        `Request ${account.id} ends with prompt log-probs up to position ${account.nextScore - 1} of ${account.numPromptTokens - 1}.`,
      );
  }

  #checkScores({ view, sequences, step }: StepInFlight, { output }: OutputView): void {
    const { scoreRow, scoreToken, sequenceStart, sequenceNumTokens } = view!;
    for (let i = 0; i < output.scoreRequestLength(); i++) {
      const id = Number(output.scoreRequest(i));
      const account = this.#ledger.live.get(id);
      const [position, first, count] = [
        output.scorePosition(i)!,
        output.scoreFirst(i)!,
        output.scoreCount(i)!,
      ];
      if (account === undefined || position !== account.nextScore || first + count > scoreRow.length)
        fail(
          'delivery',
          `Step ${step} delivers prompt log-probs from position ${position} of request ${id} out of order.`,
        );
      const entry = sequences.findIndex((sequence) => sequence.account === account);
      let firstRow = 0;
      for (let before = 0; before < entry; before++) firstRow += sequenceNumTokens[before]!;
      for (let k = 0; k < count; k++) {
        const row = position + k - 1 - (sequenceStart[entry] ?? 0) + firstRow;
        const isOwn =
          scoreRow[first + k] === row && scoreToken[first + k] === account.tokenAt(0, position + k);
        if (!isOwn)
          fail('delivery', `Prompt log-prob ${position + k} of request ${id} is read off another row.`);
      }
      account.nextScore = position + count;
    }
  }

  /** A request that only scores its prompt ends when that is computed; not at once if it was preempted meanwhile. */
  #endScored({ sequences }: StepInFlight, out: OutputView): void {
    for (const view of sequences) {
      const { account, sample } = view;
      const told = out.finishes[this.#at];
      if (
        view.isVoid ||
        account.draft.maxTokens > 0 ||
        !account.isLive(sample) ||
        view.computed !== account.numPromptTokens
      )
        continue;
      if (told?.request === account.id) this.#due(view, out, FinishReason.length, {});
    }
  }
}

function describeToken({ output, numTokens }: OutputView, at: number): string {
  if (at >= numTokens) return 'no more tokens';
  const whose = `request ${output.tokenRequest(at)}, sample ${output.tokenSample(at)}`;
  return `token ${output.tokenId(at)} of row ${output.tokenRow(at)} for ${whose}`;
}
