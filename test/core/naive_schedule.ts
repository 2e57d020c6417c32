// How the naive model plans: what runs goes on in key order, then what waits is admitted, one budget of tokens for both.
import type { NaiveState } from './naive_state.js';
import type { NaiveBlock, NaiveControl, NaiveRequest, NaiveSequence, NaiveStep } from './naive_types.js';

export function schedule(state: NaiveState): NaiveStep | NaiveControl | null {
  state.schedules++;
  if (state.inFlight.length >= state.config.maxStepsInFlight) return null;
  if (state.controlInFlight) return null;
  if (state.controls.length > 0) return state.inFlight.length > 0 ? null : nextControl(state);
  const stands = state.pause === 'paused' || state.released.size > 0 || state.updating || !state.usable;
  if (stands || state.shutDown) return null;

  const step = new StepPlanner(state).plan();
  if (step.sequences.length === 0) return null;
  state.step++;
  state.inFlight.push(step);
  state.computedTokens += step.sequences.reduce((sum, planned) => sum + planned.tokenIds.length, 0);
  return step;
}

function nextControl(state: NaiveState): NaiveControl {
  const control = state.controls.shift()!;
  state.controlInFlight = control;
  const { weightVersion } = state;
  const instruction: NaiveControl = {
    kind: 'control',
    step: ++state.step,
    weightVersion,
    work: control.command,
  };
  state.inFlight.push(instruction);
  return instruction;
}

/** Penalties count the tokens so far, so the host is told them when the slot is opened. */
function needsHistory({ input }: NaiveRequest): boolean {
  return input.repetitionPenalty !== 1 || input.presencePenalty !== 0 || input.frequencyPenalty !== 0;
}

class StepPlanner {
  private readonly step: NaiveStep;
  private budget: number;
  private numRows = 0;
  private numHistoryTokens = 0;
  private preempted = false;

  constructor(private readonly state: NaiveState) {
    this.budget = state.config.maxNumBatchedTokens;
    this.step = {
      kind: 'step',
      step: state.step + 1,
      weightVersion: state.weightVersion,
      opens: [],
      table: [],
      copies: [],
      sequences: [],
      progress: [],
      samples: [],
      fanOuts: [],
      scores: [],
    };
  }

  plan(): NaiveStep {
    this.continueRunning();
    if (!this.preempted) this.admitWaiting(this.reservedBlocks());
    return this.step;
  }

  private blocksFor(numTokens: number): number {
    return Math.ceil(numTokens / this.state.config.blockSize);
  }

  private cap(numTokens: number): number {
    const threshold = this.state.config.longPrefillTokenThreshold;
    return Math.min(numTokens, threshold > 0 ? threshold : numTokens, this.budget);
  }

  private continueRunning(): void {
    const { state } = this;
    for (const sequence of state.running()) {
      if (this.budget === 0) return;
      if (sequence.state !== 'running' || sequence.role === 'follower') continue;
      if (sequence.plannedInSchedule === state.schedules) continue;
      const remaining = state.numKnown(sequence) + sequence.samplesInFlight - sequence.computed;
      const scoring = sequence.request.input.maxTokens === 0;
      const complete = sequence.outputs.length + sequence.samplesInFlight >= state.maxOutputs(sequence);
      if (remaining === 0 || (complete && !scoring)) continue;
      const take = this.cap(remaining);
      if (!this.makeRoom(sequence, take)) return;
      this.allocate(sequence, take);
      this.compute(sequence, take);
    }
  }

  /** The block that the next position falls into belongs to others too, so it has to be copied first. */
  private mustCopy(sequence: NaiveSequence): boolean {
    const { blockSize } = this.state.config;
    if (sequence.computed % blockSize === 0) return false;
    return sequence.blocks[Math.floor(sequence.computed / blockSize)]!.owners.size > 1;
  }

  /** Preempts from the end of the running list until `take` more tokens fit; false when that reached the sequence itself. */
  private makeRoom(sequence: NaiveSequence, take: number): boolean {
    const { state } = this;
    for (;;) {
      const growth = this.blocksFor(sequence.computed + take) - sequence.blocks.length;
      const needed = growth + (this.mustCopy(sequence) ? 1 : 0);
      if (state.blocks.numAvailable >= needed) return true;
      const victim = state.running().at(-1)!;
      this.preempted = true;
      state.preempt(victim);
      if (victim === sequence) return false;
    }
  }

  private allocate(sequence: NaiveSequence, take: number): void {
    const { blocks, config } = this.state;
    if (this.mustCopy(sequence)) {
      const index = Math.floor(sequence.computed / config.blockSize);
      const source = sequence.blocks[index]!;
      const target = blocks.allocate(sequence);
      sequence.blocks[index] = target;
      blocks.release(source, sequence);
      this.step.copies.push({ source, target });
      this.step.table.push({ sequence, index, block: target });
    }
    const end = this.blocksFor(sequence.computed + take);
    while (sequence.blocks.length < end) {
      const block = blocks.allocate(sequence);
      sequence.blocks.push(block);
      if (sequence.opened) this.step.table.push({ sequence, index: sequence.blocks.length - 1, block });
    }
  }

  /** The instruction's history vector is sized for the longest sequence and a step's rows beside it. */
  private hasRoomToOpen(sequence: NaiveSequence): boolean {
    if (!needsHistory(sequence.request)) return true;
    const { maxModelLen, maxNumBatchedTokens } = this.state.config;
    return this.numHistoryTokens + this.state.numKnown(sequence) <= maxModelLen + maxNumBatchedTokens;
  }

  private open(sequence: NaiveSequence): void {
    const { state } = this;
    if (sequence.opened) return;
    sequence.opened = true;
    const tokenIds = Array.from({ length: state.numKnown(sequence) }, (_, i) =>
      state.knownToken(sequence, i),
    );
    this.step.opens.push({ sequence, tokenIds });
    if (needsHistory(sequence.request)) this.numHistoryTokens += tokenIds.length;
    sequence.blocks.forEach((block, index) => {
      this.step.table.push({ sequence, index, block });
    });
  }

  private compute(sequence: NaiveSequence, take: number): void {
    const { state } = this;
    this.open(sequence);
    const start = sequence.computed;
    const known = state.numKnown(sequence);
    const tokenIds: number[] = [];
    for (let position = start; position < start + take; position++) {
      tokenIds.push(
        position < known ? state.knownToken(sequence, position) : -1 - this.rowOfStepBefore(sequence),
      );
    }
    this.step.sequences.push({ sequence, start, tokenIds });
    this.score(sequence, start, take);
    sequence.computed += take;
    this.progress(sequence);
    sequence.plannedInSchedule = state.schedules;
    sequence.stepsInFlight++;
    this.numRows += take;
    this.budget -= take;
    if (sequence.computed === known + sequence.samplesInFlight) this.sample(sequence);
  }

  private progress(sequence: NaiveSequence): void {
    this.step.progress.push({ sequence, incarnation: sequence.incarnation, end: sequence.computed });
  }

  private rowOfStepBefore(sequence: NaiveSequence): number {
    const before = this.state.inFlight.at(-1) as NaiveStep;
    return before.samples.findIndex((sample) => sample.sequence === sequence);
  }

  private score(sequence: NaiveSequence, start: number, take: number): void {
    const { request } = sequence;
    const { promptLogprobs, promptTokenIds } = request.input;
    if (promptLogprobs < 0 || sequence.sample !== 0 || sequence.role !== 'leader') return;
    for (let position = start; position < start + take; position++) {
      if (position + 1 >= promptTokenIds.length || position < request.scored) continue;
      const row = this.numRows + position - start;
      const tokenId = promptTokenIds[position + 1]!;
      this.step.scores.push({ row, sequence, tokenId, position: position + 1 });
      request.scored = position + 1;
    }
  }

  private sample(sequence: NaiveSequence): void {
    const { request } = sequence;
    if (request.input.maxTokens === 0) return;
    const row = this.numRows - 1;
    this.sampleRow(sequence, row);
    if (sequence.role !== 'leader') return;
    const followers = [...request.live].filter((other) => other.leader === sequence);
    const fanOut: NaiveSequence[] = [];
    this.step.fanOuts.push({ leader: sequence, followers: fanOut });
    for (const follower of followers.sort((a, b) => a.sample - b.sample)) {
      // Without room they start later, by a prefill of their own.
      if (follower.sample >= request.nextSample || !this.hasRoomToOpen(follower)) {
        request.nextSample = Math.min(request.nextSample, follower.sample);
        this.state.drop(follower);
        continue;
      }
      follower.blocks = sequence.blocks.slice();
      for (const block of follower.blocks) this.state.blocks.share(block, follower);
      follower.computed = sequence.computed;
      follower.stale = sequence.stale;
      follower.role = 'alone';
      follower.leader = null;
      follower.plannedInSchedule = this.state.schedules;
      follower.stepsInFlight++;
      this.open(follower);
      this.progress(follower);
      fanOut.push(follower);
      this.sampleRow(follower, row);
    }
    sequence.role = 'alone';
    request.leader = null;
    request.fannedOutInSchedule = this.state.schedules;
  }

  private sampleRow(sequence: NaiveSequence, row: number): void {
    this.step.samples.push({ row, sequence });
    sequence.samplesInFlight++;
  }

  /** What the running sequences still need to hold all the tokens that they know. */
  private reservedBlocks(): number {
    const { state } = this;
    const needing = state.running().filter((sequence) => sequence.role !== 'follower');
    const missing = needing.map((s) => Math.max(0, this.blocksFor(state.numKnown(s)) - s.blocks.length));
    return missing.reduce((sum, count) => sum + count, 0);
  }

  private admitWaiting(reservedBefore: number): void {
    const { state } = this;
    let reserved = reservedBefore;
    while (this.budget > 0 && state.numFreeSlots() > 0) {
      // Without a free record no request can start, but the preempted sequences have theirs.
      const waiting = state.queue();
      const entry = state.numFreeRecords() > 0 ? waiting[0] : waiting.find((other) => 'sequence' in other);
      if (!entry) return;
      // A request that has just fanned out waits for the next schedule, and whoever stands behind it waits with it.
      if ('request' in entry && entry.request.fannedOutInSchedule === state.schedules) return;
      const sequence = 'sequence' in entry ? entry.sequence : null;
      if (sequence && sequence.stepsInFlight > 0) return;
      const candidate = sequence ?? this.imagine((entry as { request: NaiveRequest }).request);
      const known = state.numKnown(candidate);
      const hits = this.lookup(candidate, known);
      const hitTokens = hits.length * state.config.blockSize;
      const take = this.cap(known - hitTokens);
      const unheldHits = hits.filter((block) => block.owners.size === 0).length;
      const fits = state.blocks.numAvailable - unheldHits - reserved >= this.blocksFor(known) - hits.length;
      if (!fits || !this.hasRoomToOpen(candidate)) return;
      const admitted = sequence ?? this.seat((entry as { request: NaiveRequest }).request);
      if (sequence) {
        sequence.state = 'running';
        sequence.hasSlot = true;
      }
      this.start(admitted, hits, take);
      reserved += this.blocksFor(known) - this.blocksFor(hitTokens + take);
    }
  }

  /** The request's next leader as it would be, to look up its prefix before anything is taken. */
  private imagine(request: NaiveRequest): NaiveSequence {
    return { request, outputs: [] as number[], sample: request.nextSample } as NaiveSequence;
  }

  private lookup(sequence: NaiveSequence, known: number): NaiveBlock[] {
    const { state } = this;
    const { enablePrefixCache, blockSize } = state.config;
    if (!enablePrefixCache || sequence.request.input.promptLogprobs >= 0) return [];
    const keyAt = (index: number, parent: number) => state.cacheKey(sequence, index, parent);
    return state.blocks.lookup(keyAt, Math.floor((known - 1) / blockSize));
  }

  /** Gives slots to as many samples of the request as there are, led by the first of them. */
  private seat(request: NaiveRequest): NaiveSequence {
    const { state } = this;
    const unstarted = request.input.n - request.nextSample;
    const seats = Math.min(unstarted, state.numFreeSlots(), state.numFreeRecords());
    const leader = state.newSequence(request, request.nextSample++);
    for (let seat = 1; seat < seats; seat++) {
      const follower = state.newSequence(request, request.nextSample++);
      follower.role = 'follower';
      follower.leader = leader;
    }
    request.leader = leader;
    return leader;
  }

  private start(sequence: NaiveSequence, hits: NaiveBlock[], take: number): void {
    const { state } = this;
    const leads = sequence.role === 'leader';
    for (const block of hits) state.blocks.share(block, sequence);
    sequence.blocks = [...hits];
    sequence.computed = hits.length * state.config.blockSize;
    sequence.committed = sequence.computed;
    sequence.registered = hits.length;
    sequence.chain = hits.at(-1)?.serial ?? 0;
    this.allocate(sequence, take);
    const { request } = sequence;
    if (leads) {
      state.promptTokens += request.input.promptTokenIds.length;
      state.cachedPromptTokens += sequence.computed;
    }
    if (!request.startReported) {
      request.startReported = true;
      state.out.starts.push({ request: request.input.id, cachedTokens: sequence.computed });
    }
    this.compute(sequence, take);
  }
}
