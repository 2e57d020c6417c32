// A model of the core that is right because it is plain: docs/scheduling.md written down as arrays, Maps and sorting. It has the core's
// three calls and answers them with plain objects; test/core/fuzz.test.ts runs both side by side and compares every answer.
//
// naive_state.ts holds the state and its moves, naive_commands.ts the commands, naive_schedule.ts the planning; this file is the
// public face and the commit.
import { applyCommand } from './naive_commands.js';
import { schedule } from './naive_schedule.js';
import { NaiveState } from './naive_state.js';
import type {
  NaiveCommand,
  NaiveConfig,
  NaiveInstruction,
  NaiveOutput,
  NaiveResult,
  NaiveSequence,
  NaiveStep,
  Refusal,
} from './naive_types.js';

const because = (code: string, value = 0, limit = 0): Refusal => ({ code, value, limit });

export class NaiveModel {
  readonly state: NaiveState;

  constructor(config: NaiveConfig) {
    this.state = new NaiveState(config);
  }

  apply(command: NaiveCommand): NaiveOutput {
    applyCommand(this.state, command);
    this.state.settlePauses();
    return this.state.takeOutput(0, 0);
  }

  schedule(): NaiveInstruction | null {
    return schedule(this.state);
  }

  /** The answer to the oldest instruction in flight; the caller sees to it that it is well formed. */
  commit(result: NaiveResult): NaiveOutput {
    const { state } = this;
    const instruction = state.inFlight.shift();
    if (!instruction || instruction.step !== result.step)
      throw new Error('naive model: result of another step');
    const { weightVersion } = instruction;
    if (instruction.kind === 'control') this.commitControl(result);
    else this.commitStep(instruction, result);
    state.settlePauses();
    return state.takeOutput(result.step, weightVersion);
  }

  private commitControl(result: NaiveResult): void {
    const { state } = this;
    const control = state.controlInFlight!;
    state.controlInFlight = null;
    if (result.code !== 'none') {
      // Those behind were accepted as if this one had succeeded; shutdown alone needs nobody's success.
      const dependent = state.controls.filter((behind) => behind.command.type !== 'shutdown');
      state.controls = state.controls.filter((behind) => behind.command.type === 'shutdown');
      for (const behind of dependent.toReversed()) behind.undo();
      control.undo();
      if (control.command.type === 'finishWeightUpdate') {
        state.updating = false;
        state.usable = false;
      }
      for (const { command } of [control, ...dependent]) state.ack(command.id, because(result.code));
      return;
    }
    if (control.command.type === 'finishWeightUpdate' && control.command.succeeded) {
      state.replaceWeights(control.command.version);
    }
    state.ack(control.command.id);
  }

  private commitStep(step: NaiveStep, result: NaiveResult): void {
    const { state } = this;
    const involved = step.progress.map((progress) => progress.sequence);
    for (const sequence of involved) sequence.stepsInFlight--;
    for (const { sequence } of step.samples) sequence.samplesInFlight--;

    if (result.code !== 'none') {
      for (const sequence of [...involved, ...this.builtOn(involved)])
        this.fail(sequence, because(result.code));
      // Prompt log-probs are planned once: whose the step was to give, they can't come any more.
      for (const { sequence } of step.scores) {
        const { request } = sequence;
        if (state.requests.get(request.input.id) === request)
          state.endRequest(request, 'error', because(result.code));
      }
    } else {
      this.commitBlocks(step, result);
      this.deliverScores(step);
      this.deliverSamples(step, result);
      this.endScored(step);
    }
    for (const sequence of involved) state.giveBack(sequence);
  }

  /** Samples that the step behind fanned out from a prompt that these helped to compute: they share the same blocks. */
  private builtOn(failed: NaiveSequence[]): NaiveSequence[] {
    const behind = this.state.inFlight.filter((instruction) => instruction.kind === 'step');
    const fanOuts = behind.flatMap((step) => step.fanOuts);
    return fanOuts.flatMap(({ leader, followers }) => (failed.includes(leader) ? followers : []));
  }

  private fail(sequence: NaiveSequence, why: Refusal): void {
    if (sequence.state !== 'ended') this.state.endSequence(sequence, 'error', -1, why);
  }

  private commitBlocks(step: NaiveStep, result: NaiveResult): void {
    const failedRows = step.samples.filter((_, row) => (result.rowCodes[row] ?? 'none') !== 'none');
    for (const { sequence, incarnation, end } of step.progress) {
      if (sequence.state === 'ended' || sequence.incarnation !== incarnation) continue;
      // What made a row fail may stand in the KV behind it.
      if (failedRows.some((row) => row.sequence === sequence)) continue;
      sequence.committed = end;
      this.registerFullBlocks(sequence);
    }
  }

  /** A request with max_tokens = 0 has all it wanted when its prompt is committed. */
  private endScored(step: NaiveStep): void {
    for (const { sequence } of step.sequences) {
      const { maxTokens, promptTokenIds } = sequence.request.input;
      if (maxTokens > 0 || sequence.state === 'ended' || sequence.committed < promptTokenIds.length) continue;
      this.state.endSequence(sequence, 'length');
    }
  }

  private registerFullBlocks(sequence: NaiveSequence): void {
    const { state } = this;
    const { enablePrefixCache, blockSize } = state.config;
    if (!enablePrefixCache || sequence.stale) return;
    const full = Math.floor(Math.min(sequence.committed, state.numKnown(sequence)) / blockSize);
    while (sequence.registered < full) {
      const index = sequence.registered++;
      const key = state.cacheKey(sequence, index, sequence.chain);
      sequence.chain = state.blocks.register(sequence.blocks[index]!, key);
    }
  }

  private deliverScores(step: NaiveStep): void {
    step.scores.forEach(({ sequence, position }, index) => {
      const request = sequence.request.input.id;
      if (this.state.requests.get(request) !== sequence.request) return;
      const last = this.state.out.scores.at(-1);
      if (last && last.request === request && last.first + last.count === index) last.count++;
      else this.state.out.scores.push({ request, position, first: index, count: 1 });
    });
  }

  private deliverSamples(step: NaiveStep, result: NaiveResult): void {
    step.samples.forEach(({ sequence }, row) => {
      if (sequence.state === 'ended') return;
      const code = result.rowCodes[row] ?? 'none';
      if (code === 'none') this.deliver(sequence, row, result.tokenIds[row]!);
      else this.fail(sequence, because(code));
    });
  }

  private deliver(sequence: NaiveSequence, row: number, tokenId: number): void {
    const { state } = this;
    const { vocabSize } = state.config;
    if (tokenId < 0 || tokenId >= vocabSize) {
      this.fail(sequence, because('token_out_of_range', tokenId, vocabSize - 1));
      return;
    }
    sequence.outputs.push(tokenId);
    state.generationTokens++;
    const { request, sample } = sequence;
    state.out.tokens.push({ request: request.input.id, sample, row, tokenId });
    this.stopIfDone(sequence, tokenId);
  }

  private stopIfDone(sequence: NaiveSequence, tokenId: number): void {
    const { state } = this;
    const { ignoreEos, stopTokenIds, minTokens } = sequence.request.input;
    const endsText = !ignoreEos && state.config.eosTokenIds.includes(tokenId);
    if (sequence.outputs.length >= minTokens && (endsText || stopTokenIds.includes(tokenId))) {
      state.endSequence(sequence, 'stop', tokenId);
    } else if (sequence.outputs.length >= state.maxOutputs(sequence)) {
      state.endSequence(sequence, 'length');
    }
  }
}
