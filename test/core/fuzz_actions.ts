// What the fuzzer may do, as fast-check arbitraries: a configuration with tiny limits, and a list of actions that are made to fit the
// moment when they are carried out (an abort picks among the ids given so far, a version counts from the present one).
import fc from 'fast-check';
import type { MemoryTag, NaiveConfig, NaiveRequestInput } from './naive_types.js';
import type { Fault, SideBySide } from './side_by_side.js';

const vocabSize = 23;
const eosTokenId = 0;

export const config: fc.Arbitrary<NaiveConfig> = fc.record({
  maxNumSeqs: fc.integer({ min: 1, max: 6 }),
  maxNumBatchedTokens: fc.integer({ min: 1, max: 48 }),
  maxModelLen: fc.integer({ min: 20, max: 90 }),
  numBlocks: fc.integer({ min: 2, max: 14 }),
  blockSize: fc.constantFrom(8, 16),
  vocabSize: fc.constant(vocabSize),
  maxNumRequests: fc.integer({ min: 3, max: 12 }),
  longPrefillTokenThreshold: fc.constantFrom(0, 0, 3, 8, 16),
  enablePrefixCache: fc.constantFrom(true, true, true, false),
  maxStepsInFlight: fc.constantFrom(1, 2),
  maxN: fc.constant(5),
  maxLogprobs: fc.constant(4),
  eosTokenIds: fc.constant([eosTokenId]),
});

interface RequestDraw {
  reusesId: boolean;
  family: number;
  length: number;
  ending: number;
  n: number;
  priority: number;
  maxTokens: number;
  minTokens: number;
  stops: number[];
  ignoreEos: boolean;
  penalty: number;
  scores: boolean;
  salt: number;
  adapter: number;
  biased: boolean;
}

const request: fc.Arbitrary<RequestDraw> = fc.record({
  reusesId: fc.integer({ min: 0, max: 15 }).map((draw) => draw === 15),
  family: fc.integer({ min: 0, max: 2 }),
  length: fc.integer({ min: 0, max: 48 }),
  ending: fc.integer({ min: 0, max: 2 }),
  n: fc.constantFrom(1, 1, 1, 2, 3, 5, 6),
  priority: fc.integer({ min: -1, max: 1 }),
  maxTokens: fc.integer({ min: 0, max: 30 }),
  minTokens: fc.constantFrom(0, 0, 4),
  stops: fc.array(fc.integer({ min: 0, max: vocabSize }), { maxLength: 3 }),
  ignoreEos: fc.boolean(),
  penalty: fc.constantFrom(1, 1, 1.5),
  scores: fc.constantFrom(false, false, false, true),
  salt: fc.constantFrom(0, 0, 7),
  adapter: fc.constantFrom(0, 0, 0, 1, 2),
  biased: fc.constantFrom(false, false, true),
});

const tags: fc.Arbitrary<MemoryTag[]> = fc.constantFrom<MemoryTag[]>(
  ['kv_cache'],
  ['weights'],
  ['kv_cache', 'weights'],
  [],
);

const fault: fc.Arbitrary<Fault> = fc.constantFrom<Fault>(
  ...new Array<Fault>(12).fill('none'),
  'step_failed',
  'nan_logits',
  'token_out_of_range',
  'wrong_step',
  'short_result',
  'duplicate',
);

export type Action =
  | { kind: 'add'; requests: RequestDraw[] }
  | { kind: 'run'; turns: number; fault: Fault; which: number }
  | { kind: 'schedule' }
  | { kind: 'commit'; fault: Fault; which: number }
  | { kind: 'abort'; which: number }
  | { kind: 'abortAll' }
  | { kind: 'pause'; mode: 'abort' | 'wait' | 'keep' | 'retract' }
  | { kind: 'resume' }
  | { kind: 'reset'; force: boolean }
  | { kind: 'begin' }
  | { kind: 'finish'; ahead: number; succeeded: boolean }
  | { kind: 'release'; tags: MemoryTag[]; abortRunning: boolean }
  | { kind: 'resumeMemory'; tags: MemoryTag[] }
  | { kind: 'load' | 'unload'; adapter: number }
  | { kind: 'groups'; size: number }
  | { kind: 'updateWeights'; mode: 'keep' | 'retract' }
  | { kind: 'retractAndResume' }
  | { kind: 'shutdown' };

const which = fc.nat({ max: 20 });

/** An action of this kind, drawn `weight` times as often as one of weight 1. */
function draw<F extends Record<string, unknown>>(
  weight: number,
  kind: Action['kind'],
  fields: { [K in keyof F]: fc.Arbitrary<F[K]> },
) {
  return { weight, arbitrary: fc.record({ kind: fc.constant(kind), ...fields }) as fc.Arbitrary<unknown> };
}

const oneAction = fc.oneof(
  draw(56, 'add', { requests: fc.array(request, { minLength: 1, maxLength: 3 }) }),
  draw(80, 'run', { turns: fc.integer({ min: 1, max: 12 }), fault, which }),
  draw(56, 'schedule', {}),
  draw(40, 'commit', { fault, which }),
  draw(24, 'abort', { which }),
  draw(4, 'abortAll', {}),
  draw(16, 'pause', { mode: fc.constantFrom('abort', 'wait', 'wait', 'keep', 'keep', 'retract', 'retract') }),
  draw(32, 'resume', {}),
  draw(12, 'reset', { force: fc.boolean() }),
  draw(12, 'begin', {}),
  draw(20, 'finish', {
    ahead: fc.integer({ min: 0, max: 2 }),
    succeeded: fc.constantFrom(true, true, true, false),
  }),
  draw(8, 'release', { tags, abortRunning: fc.constantFrom(false, false, true) }),
  draw(16, 'resumeMemory', { tags }),
  draw(10, 'load', { adapter: fc.integer({ min: 0, max: 2 }) }),
  draw(3, 'unload', { adapter: fc.integer({ min: 0, max: 2 }) }),
  draw(4, 'groups', { size: fc.integer({ min: 0, max: 1 }) }),
  draw(12, 'updateWeights', { mode: fc.constantFrom('keep', 'keep', 'retract') }),
  draw(12, 'retractAndResume', {}),
  draw(1, 'shutdown', {}),
);

export const actions = fc.array(oneAction as fc.Arbitrary<Action>, {
  minLength: 1,
  maxLength: 60,
  size: 'max',
});

/** Families share beginnings, so that prompts hit each other's blocks; the ending sets some apart in their last tokens. */
function promptOf({ family, length, ending }: RequestDraw): number[] {
  const tokens = Array.from({ length }, (_, i) => 1 + ((i * 7 + family * 3) % (vocabSize - 1)));
  if (ending > 0 && length > 0) tokens[length - 1] = ending;
  return tokens;
}

export class FuzzRun {
  private readonly ids: number[] = [];
  private ordinal = 1;

  constructor(private readonly sides: SideBySide) {}

  carryOut(action: Action): void {
    const { sides } = this;
    const { state } = sides.model;
    switch (action.kind) {
      case 'add':
        sides.apply({ type: 'addRequests', requests: action.requests.map((draw) => this.request(draw)) });
        return;
      case 'run':
        for (let turn = 0; turn < action.turns; turn++) {
          while (sides.schedule());
          sides.commit(turn === 0 ? action.fault : 'none', action.which);
        }
        return;
      case 'schedule':
        sides.schedule();
        return;
      case 'commit':
        sides.commit(action.fault, action.which);
        return;
      case 'abort':
        sides.apply({ type: 'abortRequests', requestIds: this.pick(action.which), all: false });
        return;
      case 'abortAll':
        sides.apply({ type: 'abortRequests', requestIds: [], all: true });
        return;
      case 'pause':
        // More pauses at once than the core keeps are refused; the model keeps any number.
        if (state.pendingPauses.length < 8) sides.apply({ type: 'pauseGeneration', mode: action.mode });
        return;
      case 'resume':
        sides.apply({ type: 'resumeGeneration' });
        return;
      case 'reset':
        sides.apply({ type: 'resetPrefixCache', force: action.force });
        return;
      case 'begin':
        sides.apply({ type: 'beginWeightUpdate' });
        return;
      case 'finish': {
        const version = state.projectedVersion + action.ahead;
        sides.apply({ type: 'finishWeightUpdate', version, succeeded: action.succeeded });
        return;
      }
      case 'release':
        sides.apply({ type: 'releaseMemory', tags: action.tags, abortRunning: action.abortRunning });
        return;
      case 'resumeMemory':
        sides.apply({ type: 'resumeMemory', tags: action.tags });
        return;
      case 'load':
        sides.apply({ type: 'loadAdapter', adapter: action.adapter });
        return;
      case 'unload':
        sides.apply({ type: 'unloadAdapter', adapter: action.adapter });
        return;
      case 'groups':
        sides.apply({
          type: 'setParallelGroups',
          tensorParallelSize: action.size,
          pipelineParallelSize: 1,
          dataParallelSize: 1,
        });
        return;
      case 'updateWeights':
        this.updateWeights(action.mode);
        return;
      case 'retractAndResume':
        sides.apply({ type: 'pauseGeneration', mode: 'retract' });
        sides.apply({ type: 'resumeGeneration' });
        return;
      case 'shutdown':
        sides.apply({ type: 'shutdown' });
    }
  }

  /** A whole update, as a trainer makes it, with requests running: single commands in this order are rare. */
  private updateWeights(mode: 'keep' | 'retract'): void {
    const { sides } = this;
    sides.apply({ type: 'pauseGeneration', mode });
    while (sides.commit());
    sides.apply({ type: 'beginWeightUpdate' });
    const version = sides.model.state.projectedVersion + 1;
    sides.apply({ type: 'finishWeightUpdate', version, succeeded: true });
    while (sides.schedule()) sides.commit();
    sides.apply({ type: 'resumeGeneration' });
  }

  private pick(which: number): number[] {
    const id = this.ids.at(-1 - (which % Math.max(1, this.ids.length)));
    return id === undefined ? [4_000_000] : [id];
  }

  private request(draw: RequestDraw): NaiveRequestInput {
    const seed = this.ordinal++;
    const id = draw.reusesId ? (this.ids.at(-1) ?? seed) : 1000 + seed;
    this.ids.push(id);
    return {
      id,
      promptTokenIds: promptOf(draw),
      n: draw.maxTokens === 0 ? 1 : draw.n,
      priority: draw.priority,
      adapter: draw.adapter,
      cacheSalt: draw.salt,
      seed,
      temperature: 1,
      topP: 1,
      topK: 0,
      minP: 0,
      repetitionPenalty: draw.penalty,
      presencePenalty: 0,
      frequencyPenalty: 0,
      maxTokens: draw.maxTokens,
      minTokens: Math.min(draw.minTokens, draw.maxTokens),
      logprobs: -1,
      promptLogprobs: draw.scores || draw.maxTokens === 0 ? 0 : -1,
      ignoreEos: draw.ignoreEos,
      stopTokenIds: draw.stops,
      logitBias: draw.biased ? [{ tokenId: 3, bias: -1.5 }] : [],
    };
  }
}
