// A small driver for tests of the core: it numbers requests, knows which request a slot belongs to, collects what each sample was given,
// and checks the core's books after every call. Seeds are request ids, so that an opened slot says whose it is.
import {
  type CommandBody,
  Core,
  type CoreConfig,
  type InstructionObject,
  type OutputObject,
  type RequestObject,
  type ResultObject,
  resultFor,
  type StepPlanObject,
} from './core_types.js';

export interface Sampled {
  request: number;
  sample: number;
  /** Index of the new token in the sample's output. */
  output: number;
  /** Index among the samples of the step. */
  index: number;
}

export interface Computed {
  request: number;
  sample: number;
  start: number;
  numTokens: number;
  tokenIds: number[];
}

export interface Plan {
  step: number;
  plan: StepPlanObject;
  computed: Computed[];
  sampled: Sampled[];
}

export type TokenRule = (sampled: Sampled) => number;
export type RequestDraft = Partial<Omit<RequestObject, 'id'>> & { id?: number };
export type Finish = OutputObject['finishes'][number];

/** A prompt that no other prompt begins like: `salt` sets it apart. */
export function promptOf(length: number, salt = 0): number[] {
  return Array.from({ length }, (_, i) => 10 + ((i * 31 + salt * 101 + (i >> 3) * salt) % 900));
}

export const defaults: CoreConfig = {
  maxModelLen: 4096,
  numBlocks: 1000,
  blockSize: 16,
  vocabSize: 1000,
  maxNumSeqs: 16,
  maxNumBatchedTokens: 8192,
  maxNumRequests: 64,
  maxStepsInFlight: 1,
  maxN: 64,
  eosTokenIds: [2],
};

interface InFlight {
  instruction: InstructionObject;
  plan: Plan | null;
}

export class CoreDriver {
  /** What each sample was given, by 'request/sample'. */
  readonly outputs = new Map<string, number[]>();
  readonly finishes: Finish[] = [];
  readonly starts: OutputObject['starts'] = [];
  readonly inFlight: InFlight[] = [];
  private readonly slots = new Map<number, { request: number; sample: number; promptTokens: number }>();
  private nextId = 1;

  static async create(config: Partial<CoreConfig> = {}): Promise<CoreDriver> {
    return new CoreDriver(await Core.create({ ...defaults, ...config }));
  }

  constructor(readonly core: Core) {}

  /** Adds requests in one command, of 10 prompt tokens and 16 output tokens unless they say otherwise. Gives the ids. */
  add(...drafts: RequestDraft[]): number[] {
    const requests = drafts.map((draft) => this.complete(draft));
    this.apply({ type: 'addRequests', requests });
    return requests.map(({ id }) => id);
  }

  /** As add, for one request that is refused: gives its finish. */
  addRefused(draft: RequestDraft): Finish {
    const output = this.apply({ type: 'addRequests', requests: [this.complete(draft)] });
    const [refusal] = output.finishes;
    if (!refusal) throw new Error('the request was accepted');
    return refusal;
  }

  private complete(draft: RequestDraft): RequestObject & { id: number } {
    const id = draft.id ?? this.nextId++;
    return { promptTokenIds: promptOf(10, id), ignoreEos: true, ...draft, id, seed: id };
  }

  apply(command: CommandBody & { id?: number }): OutputObject {
    return this.take(this.core.apply(command));
  }

  /** The code with which a command was acknowledged; null when it was not yet. */
  ackOf(command: CommandBody): string | null {
    return this.apply(command).acks[0]?.code ?? null;
  }

  /** The next step plan, or null. A control instruction instead is the test's mistake. */
  schedule(): Plan | null {
    const instruction = this.next();
    if (instruction === null) return null;
    const { plan } = this.inFlight.at(-1)!;
    if (plan === null) throw new Error(`a ${instruction.type} came where a step was expected`);
    return plan;
  }

  /** The next instruction of either kind. */
  next(): InstructionObject | null {
    const instruction = this.core.schedule();
    this.core.checkIntegrity();
    if (instruction === null) return null;
    this.inFlight.push({
      instruction,
      plan: instruction.type === 'stepPlan' ? this.read(instruction) : null,
    });
    return instruction;
  }

  private read(plan: StepPlanObject): Plan {
    for (const { slot, sample, promptTokens, params } of plan.opens) {
      this.slots.set(slot, { request: Number(params.seed), sample, promptTokens });
    }
    const owner = (slot: number) => this.slots.get(slot)!;
    return {
      step: plan.step,
      plan,
      computed: plan.sequences.map(({ slot, start, numTokens, tokenIds }) => {
        const { request, sample } = owner(slot);
        return { request, sample, start, numTokens, tokenIds };
      }),
      sampled: plan.samples.map(({ slot, position, index }) => {
        const { request, sample, promptTokens } = owner(slot);
        return { request, sample, output: position - promptTokens, index };
      }),
    };
  }

  /** The result of the oldest step in flight, as the rule has it. It stays in flight. */
  result(rule: TokenRule = () => 5): ResultObject {
    const { instruction, plan } = this.inFlight[0]!;
    return resultFor(instruction, ({ index }) => rule(plan!.sampled[index]!));
  }

  /** Commits the oldest step in flight. */
  commit(rule?: TokenRule): OutputObject {
    return this.commitResult(this.result(rule));
  }

  /** Commits this result as the answer to the oldest step in flight. */
  commitResult(result: ResultObject): OutputObject {
    const output = this.take(this.core.commit(result));
    this.inFlight.shift();
    return output;
  }

  /** The oldest step in flight fails as a whole. */
  failStep(): OutputObject {
    const step = this.inFlight[0]!.instruction.step;
    return this.commitResult({ step, code: 'step_failed', message: 'the device is gone' });
  }

  /** Schedules one step and commits it. */
  step(rule?: TokenRule): Plan & { output: OutputObject } {
    const plan = this.schedule();
    if (plan === null) throw new Error('there was nothing to schedule');
    return { ...plan, output: this.commit(rule) };
  }

  /** Carries one control instruction out. Gives the output with its acknowledgement. */
  control(code?: 'step_failed'): OutputObject {
    const instruction = this.next();
    if (instruction === null || instruction.type === 'stepPlan') throw new Error('no control was next');
    return this.commitResult(code ? { step: instruction.step, code } : { step: instruction.step });
  }

  /** Goes on until there is nothing to do. Gives the plans. */
  run(rule?: TokenRule, maxSteps = 10_000): Plan[] {
    const plans: Plan[] = [];
    for (let steps = 0; steps < maxSteps; steps++) {
      for (;;) {
        const plan = this.schedule();
        if (plan === null) break;
        plans.push(plan);
      }
      if (this.inFlight.length === 0) return plans;
      this.commit(rule);
    }
    throw new Error(`not done after ${maxSteps} steps`);
  }

  private take(output: OutputObject): OutputObject {
    for (const { request, sample, tokenId } of output.tokens) {
      const name = `${request}/${sample}`;
      const tokens = this.outputs.get(name) ?? [];
      tokens.push(tokenId);
      this.outputs.set(name, tokens);
    }
    this.finishes.push(...output.finishes);
    this.starts.push(...output.starts);
    this.core.checkIntegrity();
    return output;
  }

  tokensOf(request: number, sample = 0): number[] {
    return this.outputs.get(`${request}/${sample}`) ?? [];
  }

  /** How the sample ended: 'length', 'stop 42', 'error step_failed', ... */
  endOf(request: number, sample = 0): string | undefined {
    const ends = this.finishes.filter(
      (finish) =>
        finish.request === request && finish.sample <= sample && sample < finish.sample + finish.count,
    );
    if (ends.length > 1) throw new Error(`sample ${request}/${sample} ended ${ends.length} times`);
    const [end] = ends;
    if (!end) return undefined;
    if (end.reason === 'stop') return `stop ${end.stopToken}`;
    return end.reason === 'error' ? `error ${end.code}` : end.reason;
  }

  cachedTokensOf(request: number): number | undefined {
    return this.starts.find((start) => start.request === request)?.cachedTokens;
  }

  get running(): number {
    return this.core.stats().numRunning;
  }

  get waiting(): number {
    return this.core.stats().numWaiting;
  }
}
