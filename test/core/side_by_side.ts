// Drives the core, the naive model and the checking host side by side. After every call the answers are compared, the core's books are
// checked, and each delivered token is held against the oracle. Throws at the first difference.
import { CheckingHost } from '../support/core_host.js';
import { nextChain, oracleToken, rootChain } from '../support/core_oracle.js';
import { Core, type InstructionObject, type OutputObject, type ResultObject } from '../support/core_types.js';
import { mustEqual, PlanComparison } from './compare_plans.js';
import { NaiveModel } from './naive_model.js';
import type {
  NaiveCommand,
  NaiveConfig,
  NaiveInstruction,
  NaiveOutput,
  NaiveRequestInput,
} from './naive_types.js';

export type Fault =
  | 'none'
  | 'step_failed'
  | 'nan_logits'
  | 'token_out_of_range'
  | 'wrong_step'
  | 'short_result'
  | 'duplicate';

type CommandBody = NaiveCommand extends infer C ? (C extends NaiveCommand ? Omit<C, 'id'> : never) : never;

/** What a client would know of a request. */
interface Account {
  input: NaiveRequestInput;
  refused: boolean;
  ended: Set<number>;
  delivered: Map<number, { chain: number; position: number }>;
}

export class SideBySide {
  readonly model: NaiveModel;
  readonly host: CheckingHost;
  private readonly plans: PlanComparison;
  private readonly inFlight: { core: InstructionObject; model: NaiveInstruction; result: ResultObject }[] =
    [];
  private readonly bySeed = new Map<number, NaiveRequestInput>();
  private readonly accounts: Account[] = [];
  private readonly accountOf = new Map<number, Account>();
  private nextCommandId = 1;
  private lastResult: ResultObject | null = null;

  static async create(config: NaiveConfig): Promise<SideBySide> {
    return new SideBySide(await Core.create(config), config);
  }

  private constructor(
    readonly core: Core,
    readonly config: NaiveConfig,
  ) {
    this.model = new NaiveModel(config);
    this.plans = new PlanComparison(config.eosTokenIds);
    this.host = new CheckingHost(config, (seed) => this.bySeed.get(seed)!);
  }

  get numInFlight(): number {
    return this.inFlight.length;
  }

  apply(body: CommandBody): NaiveOutput {
    const command = { id: this.nextCommandId++, ...body } as NaiveCommand;
    const requests = command.type === 'addRequests' ? command.requests : [];
    for (const input of requests) this.bySeed.set(input.seed, input);
    const core = this.core.apply(forCore(command));
    const model = this.model.apply(command);
    for (const input of requests) this.openAccount(input);
    this.compareOutputs(core, model);
    // Of AddRequests only refusals come back, and these were never anybody's samples.
    if (command.type !== 'addRequests') for (const finish of model.finishes) this.checkFinish(finish);
    return model;
  }

  /** False when there was nothing to plan. */
  schedule(): boolean {
    const core = this.core.schedule();
    const model = this.model.schedule();
    mustEqual('whether there is an instruction', core !== null, model !== null);
    if (core && model) {
      this.plans.compare(core, model);
      // A control instruction is carried out when it is answered: nothing else is in flight, and it may fail.
      const result = core.type === 'stepPlan' ? this.host.execute(core) : { step: core.step };
      this.inFlight.push({ core, model, result });
    }
    this.checkBooks();
    return core !== null;
  }

  /** Commits the oldest step in flight; a fault says what goes wrong with it. False when nothing is in flight. */
  commit(fault: Fault = 'none', which = 0): boolean {
    if (fault === 'wrong_step' || fault === 'short_result' || fault === 'duplicate') this.commitBadly(fault);
    const oldest = this.inFlight.shift();
    if (!oldest) return false;
    const result = this.spoil(oldest, fault, which);
    const core = this.core.commit(result);
    this.lastResult = result;
    const model = this.model.commit({
      step: result.step,
      code: result.code ?? 'none',
      tokenIds: [...(result.tokenIds ?? [])],
      rowCodes: [...(result.rowCodes ?? [])],
    });
    this.compareOutputs(core, model);
    for (const { request, sample, tokenId } of model.tokens) this.checkToken(request, sample, tokenId);
    for (const finish of model.finishes) this.checkFinish(finish);
    return true;
  }

  private spoil(
    { core, result }: { core: InstructionObject; result: ResultObject },
    fault: Fault,
    which: number,
  ): ResultObject {
    const failed = { step: result.step, code: 'step_failed', message: 'injected' } as const;
    if (core.type !== 'stepPlan') {
      if (fault !== 'step_failed') return this.host.execute(core);
      this.host.refuse(core);
      return failed;
    }
    if (fault === 'step_failed') {
      this.host.fail(result.step);
      return failed;
    }
    const tokenIds = [...(result.tokenIds ?? [])];
    if (tokenIds.length === 0) return result;
    const row = which % tokenIds.length;
    if (fault === 'nan_logits') {
      tokenIds[row] = -1;
      const rowCodes = tokenIds.map((_, i) => (i === row ? ('nan_logits' as const) : ('none' as const)));
      return { ...result, tokenIds, rowCodes };
    }
    if (fault === 'token_out_of_range') {
      tokenIds[row] = which % 2 === 0 ? this.config.vocabSize : -5;
      return { ...result, tokenIds };
    }
    return result;
  }

  /** A result that does not fit is refused and changes nothing. */
  private commitBadly(fault: 'wrong_step' | 'short_result' | 'duplicate'): void {
    const oldest = this.inFlight[0]?.result;
    const bad = this.badResult(fault, oldest);
    if (!bad) return;
    const before = this.core.stats();
    const output = this.core.commit(bad.result);
    mustEqual(
      `answer to a result with ${fault}`,
      output.acks.map((ack) => ack.code),
      [bad.code],
    );
    mustEqual('deliveries of a refused result', [output.tokens, output.finishes], [[], []]);
    mustEqual('statistics after a refused result', this.core.stats(), before);
    // Starts that were waiting for an output have left with this one.
    mustEqual('starts', output.starts, this.model.state.out.starts);
    this.model.state.out.starts = [];
    this.checkBooks();
  }

  private badResult(fault: Fault, oldest: ResultObject | undefined) {
    if (fault === 'wrong_step') {
      return { result: { step: (oldest?.step ?? 0) + 1, tokenIds: [] }, code: 'result_unexpected' };
    }
    if (fault === 'duplicate') {
      return this.lastResult && { result: this.lastResult, code: 'result_unexpected' };
    }
    if (!oldest?.tokenIds?.length) return null;
    return { result: { ...oldest, tokenIds: [...oldest.tokenIds].slice(1) }, code: 'result_malformed' };
  }

  private openAccount(input: NaiveRequestInput): void {
    const refused = this.model.state.requests.get(input.id)?.input !== input;
    const account: Account = { input, refused, ended: new Set(), delivered: new Map() };
    this.accounts.push(account);
    if (!refused) this.accountOf.set(input.id, account);
  }

  private compareOutputs(core: OutputObject, model: NaiveOutput): void {
    const at = model.step === 0 ? 'output of a command' : `output of step ${model.step}`;
    mustEqual(`${at}: step`, core.step, model.step);
    mustEqual(`${at}: weight version`, Number(core.weightVersion), model.weightVersion);
    mustEqual(`${at}: tokens`, core.tokens, model.tokens);
    mustEqual(`${at}: scores`, core.scores, model.scores);
    mustEqual(
      `${at}: finishes`,
      core.finishes.map((finish) => ({ ...finish, stopToken: finish.stopToken ?? -1 })),
      model.finishes,
    );
    mustEqual(`${at}: starts`, core.starts, model.starts);
    mustEqual(`${at}: acks`, core.acks, model.acks);
    this.checkBooks();
  }

  private checkToken(request: number, sample: number, tokenId: number): void {
    const account = this.accountOf.get(request)!;
    if (account.ended.has(sample)) throw new Error(`sample ${request}/${sample} gives a token after its end`);
    const { seed, promptTokenIds, adapter } = account.input;
    let at = account.delivered.get(sample);
    if (!at) {
      let chain = rootChain(adapter);
      for (const token of promptTokenIds) chain = nextChain(chain, token);
      at = { chain, position: promptTokenIds.length };
      account.delivered.set(sample, at);
    }
    const { vocabSize } = this.config;
    const expected = oracleToken(at.chain, { seed, sample, position: at.position }, vocabSize);
    mustEqual(`token ${at.position} of ${request}/${sample}`, tokenId, expected);
    at.chain = nextChain(at.chain, tokenId);
    at.position++;
  }

  private checkFinish({ request, sample, count }: NaiveOutput['finishes'][number]): void {
    const account = this.accountOf.get(request)!;
    for (let ended = sample; ended < sample + count; ended++) {
      if (account.ended.has(ended)) throw new Error(`sample ${request}/${ended} ends twice`);
      account.ended.add(ended);
    }
  }

  private checkBooks(): void {
    this.core.checkIntegrity();
    const { state } = this.model;
    const stats = this.core.stats();
    const unstarted = [...state.requests.values()].map(({ input, nextSample }) => input.n - nextSample);
    const preempted = [...state.sequences].filter((sequence) => sequence.state === 'preempted').length;
    mustEqual(
      'statistics',
      {
        step: stats.step,
        inFlight: stats.numStepsInFlight,
        running: stats.numRunning,
        waiting: stats.numWaiting,
        requests: stats.numRequests,
        free: stats.numFreeBlocks,
        cached: stats.numCachedBlocks,
        held: stats.numHeldBlocks,
        preemptions: stats.numPreemptions,
        promptTokens: stats.promptTokens,
        cachedPromptTokens: stats.cachedPromptTokens,
        computed: stats.computedTokens,
        generated: stats.generationTokens,
        finished: stats.finishedSamples,
        weightVersion: Number(stats.weightVersion),
        paused: stats.paused,
        updating: stats.updatingWeights,
        usable: stats.weightsUsable,
        released: stats.released,
        shutDown: stats.shutDown,
      },
      {
        step: state.step,
        inFlight: state.inFlight.length,
        running: state.running().length,
        waiting: unstarted.reduce((sum, count) => sum + count, preempted),
        requests: state.requests.size,
        free: state.blocks.numFree,
        cached: state.blocks.cached.length,
        held: state.blocks.held.size,
        preemptions: state.numPreemptions,
        promptTokens: state.promptTokens,
        cachedPromptTokens: state.cachedPromptTokens,
        computed: state.computedTokens,
        generated: state.generationTokens,
        finished: state.finishedSamples,
        weightVersion: state.weightVersion,
        paused: state.pause === 'paused',
        updating: state.updating,
        usable: state.usable,
        released: (['kv_cache', 'weights'] as const).filter((tag) => state.released.has(tag)),
        shutDown: state.shutDown,
      },
    );
  }

  /** Mends all that keeps the core from running and runs until every request has ended. Throws when it does not get there. */
  finish(): void {
    const { state } = this.model;
    this.settle();
    if (!state.shutDown) {
      if (state.updating)
        this.apply({ type: 'finishWeightUpdate', version: state.projectedVersion + 1, succeeded: true });
      this.settle();
      if (state.released.size > 0) this.apply({ type: 'resumeMemory', tags: [...state.released] });
      this.settle();
      if (!state.usable) {
        this.apply({ type: 'pauseGeneration', mode: 'keep' });
        this.apply({ type: 'beginWeightUpdate' });
        this.apply({ type: 'finishWeightUpdate', version: state.projectedVersion + 1, succeeded: true });
        this.settle();
      }
      this.apply({ type: 'resumeGeneration' });
    }
    this.run();
    mustEqual('requests left', [...state.requests.keys()], []);
    for (const { input, refused, ended } of this.accounts) {
      if (!refused) mustEqual(`samples of ${input.id} that ended`, ended.size, input.n);
    }
  }

  /** Commits what is in flight and carries out the control commands that wait. */
  private settle(): void {
    while (this.commit());
    const { state } = this.model;
    while (state.controls.length > 0) {
      this.schedule();
      this.commit();
    }
  }

  run(): void {
    for (;;) {
      while (this.schedule());
      if (!this.commit()) return;
    }
  }
}

/** The same command as kadenz/core takes it. */
function forCore(command: NaiveCommand): Parameters<Core['apply']>[0] {
  if (command.type === 'loadAdapter')
    return { ...command, name: `adapter ${command.adapter}`, path: '/nowhere' };
  if (command.type !== 'addRequests') return command;
  const requests = command.requests.map((input) => ({
    ...input,
    logitBias: new Map(input.logitBias.map(({ tokenId, bias }) => [tokenId, bias])),
  }));
  return { id: command.id, type: 'addRequests', requests };
}
