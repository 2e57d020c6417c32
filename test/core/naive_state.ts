// The naive model's state and the moves that commands, plans and results share: who runs, who waits, how a sequence loses its place
// or ends. Everything is found by walking and sorting; what could be kept up to date is computed anew each time.
import { NaiveBlocks } from './naive_blocks.js';
import type {
  MemoryTag,
  NaiveCommand,
  NaiveConfig,
  NaiveInstruction,
  NaiveOutput,
  NaiveRequest,
  NaiveSequence,
  Refusal,
} from './naive_types.js';

export type Key = [priority: number, arrival: number, sample: number];

export function compareKeys(a: Key, b: Key): number {
  return a[0] - b[0] || a[1] - b[1] || a[2] - b[2];
}

export function keyOf(sequence: NaiveSequence): Key {
  return [sequence.request.input.priority, sequence.request.arrival, sequence.sample];
}

export type QueueEntry = { key: Key } & ({ request: NaiveRequest } | { sequence: NaiveSequence });

/** A control command that is not carried out yet, and how to take back what was assumed of it. */
export interface PendingControl {
  command: NaiveCommand;
  /** As if it had never been accepted. */
  undo: () => void;
}

interface SampleEnd {
  sample: number;
  count: number;
  started: boolean;
  reason: string;
  stopToken: number;
  why: Refusal | null;
}

export const emptyOutput = (): NaiveOutput => ({
  step: 0,
  weightVersion: 0,
  tokens: [],
  scores: [],
  finishes: [],
  starts: [],
  acks: [],
});

export class NaiveState {
  readonly blocks: NaiveBlocks;
  readonly lengthLimit: number;
  arrivals = 0;
  step = 0;
  schedules = 0;
  numPreemptions = 0;
  weightVersion = 0;
  projectedVersion = 0;
  updating = false;
  usable = true;
  shutDown = false;
  pause: 'none' | 'draining' | 'paused' = 'none';
  released = new Set<MemoryTag>();
  adapters = new Set<number>();
  pendingPauses: number[] = [];
  controls: PendingControl[] = [];
  controlInFlight: PendingControl | null = null;
  inFlight: NaiveInstruction[] = [];
  requests = new Map<number, NaiveRequest>();
  /** Every sequence that has a record: started and not given back. */
  sequences = new Set<NaiveSequence>();
  computedTokens = 0;
  generationTokens = 0;
  finishedSamples = 0;
  promptTokens = 0;
  cachedPromptTokens = 0;
  out: NaiveOutput = emptyOutput();

  constructor(readonly config: NaiveConfig) {
    this.blocks = new NaiveBlocks(config.numBlocks);
    this.lengthLimit = Math.min(config.maxModelLen, config.numBlocks * config.blockSize);
  }

  running(): NaiveSequence[] {
    const running = [...this.sequences].filter((sequence) => sequence.state === 'running');
    return running.sort((a, b) => compareKeys(keyOf(a), keyOf(b)));
  }

  queue(): QueueEntry[] {
    const entries: QueueEntry[] = [];
    for (const request of this.requests.values()) {
      if (request.nextSample === request.input.n || request.leader || request.held) continue;
      entries.push({ key: [request.input.priority, request.arrival, request.nextSample], request });
    }
    for (const sequence of this.sequences) {
      if (sequence.state === 'preempted') entries.push({ key: keyOf(sequence), sequence });
    }
    return entries.sort((a, b) => compareKeys(a.key, b.key));
  }

  numFreeSlots(): number {
    return this.config.maxNumSeqs - [...this.sequences].filter((sequence) => sequence.hasSlot).length;
  }

  numFreeRecords(): number {
    return 2 * this.config.maxNumSeqs - this.sequences.size;
  }

  numKnown(sequence: NaiveSequence): number {
    return sequence.request.input.promptTokenIds.length + sequence.outputs.length;
  }

  knownToken(sequence: NaiveSequence, position: number): number {
    const prompt = sequence.request.input.promptTokenIds;
    return position < prompt.length ? prompt[position]! : sequence.outputs[position - prompt.length]!;
  }

  maxOutputs(sequence: NaiveSequence): number {
    const prompt = sequence.request.input.promptTokenIds.length;
    return Math.min(prompt + sequence.request.input.maxTokens, this.lengthLimit) - prompt;
  }

  /** What a full block of this sequence is found by in the prefix cache. */
  cacheKey(sequence: NaiveSequence, index: number, parentSerial: number): string {
    const { adapter, cacheSalt } = sequence.request.input;
    const { blockSize } = this.config;
    const tokens = Array.from({ length: blockSize }, (_, i) =>
      this.knownToken(sequence, index * blockSize + i),
    );
    const parent = index === 0 ? `root ${this.weightVersion} ${adapter} ${cacheSalt}` : `${parentSerial}`;
    return `${parent}: ${tokens.join(' ')}`;
  }

  newSequence(request: NaiveRequest, sample: number): NaiveSequence {
    const sequence: NaiveSequence = {
      request,
      sample,
      state: 'running',
      role: 'leader',
      leader: null,
      outputs: [],
      computed: 0,
      committed: 0,
      registered: 0,
      chain: 0,
      stale: false,
      blocks: [],
      stepsInFlight: 0,
      samplesInFlight: 0,
      hasSlot: true,
      opened: false,
      plannedInSchedule: -1,
      incarnation: 0,
    };
    this.sequences.add(sequence);
    request.live.add(sequence);
    return sequence;
  }

  /** Takes a running sequence's blocks and slot. One that has not sampled yet goes back to its request, with its whole group. */
  preempt(sequence: NaiveSequence): void {
    const request = sequence.request;
    if (sequence.role === 'follower') {
      request.nextSample = sequence.sample;
      this.drop(sequence);
      return;
    }
    this.numPreemptions++;
    request.preemptions.set(sequence.sample, (request.preemptions.get(sequence.sample) ?? 0) + 1);
    if (sequence.role === 'leader') {
      for (const other of [...request.live]) if (other.leader === sequence) this.drop(other);
      request.nextSample = sequence.sample;
      request.leader = null;
      this.drop(sequence);
      return;
    }
    this.vacate(sequence);
    sequence.state = 'preempted';
  }

  /** The sequence is gone without having ended: its sample belongs to the unstarted ones again. */
  drop(sequence: NaiveSequence): void {
    this.vacate(sequence);
    sequence.state = 'ended';
    sequence.request.live.delete(sequence);
    if (sequence.stepsInFlight === 0) this.sequences.delete(sequence);
  }

  private vacate(sequence: NaiveSequence): void {
    this.blocks.releaseAll(sequence);
    sequence.hasSlot = false;
    sequence.opened = false;
    sequence.stale = false;
    sequence.computed = 0;
    sequence.committed = 0;
    sequence.registered = 0;
    sequence.chain = 0;
    sequence.incarnation++;
  }

  private endUnstarted(request: NaiveRequest, reason: string, why: Refusal | null): void {
    const count = request.input.n - request.nextSample;
    if (count === 0) return;
    this.reportFinish(request, {
      sample: request.nextSample,
      count,
      started: false,
      reason,
      stopToken: -1,
      why,
    });
    request.nextSample = request.input.n;
    this.removeIfDone(request);
  }

  /** Ends a started sample. While a step of its is in flight it keeps what it holds. */
  endSequence(sequence: NaiveSequence, reason: string, stopToken = -1, why: Refusal | null = null): void {
    const request = sequence.request;
    this.reportFinish(request, { sample: sequence.sample, count: 1, started: true, reason, stopToken, why });
    sequence.state = 'ended';
    request.live.delete(sequence);
    if (request.leader === sequence) {
      request.leader = null;
      const followers = [...request.live].filter((other) => other.leader === sequence);
      for (const follower of followers) {
        request.nextSample = Math.min(request.nextSample, follower.sample);
        this.drop(follower);
      }
    }
    this.giveBack(sequence);
    this.removeIfDone(request);
  }

  /** An ended sequence returns blocks, slot and record once nothing of it is in flight. */
  giveBack(sequence: NaiveSequence): void {
    if (sequence.state !== 'ended' || sequence.stepsInFlight > 0) return;
    this.blocks.releaseAll(sequence);
    sequence.hasSlot = false;
    this.sequences.delete(sequence);
  }

  private removeIfDone(request: NaiveRequest): void {
    if (request.live.size === 0 && request.nextSample === request.input.n)
      this.requests.delete(request.input.id);
  }

  private reportFinish(request: NaiveRequest, end: SampleEnd): void {
    const { sample, count, started, reason, stopToken, why } = end;
    this.finishedSamples += count;
    this.out.finishes.push({
      request: request.input.id,
      sample,
      count,
      reason,
      stopToken,
      code: why?.code ?? 'none',
      value: why?.value ?? 0,
      limit: why?.limit ?? 0,
      preemptions: started ? (request.preemptions.get(sample) ?? 0) : 0,
    });
  }

  /** Ends all that is left of a request: each started sample as its own (followers too), then the unstarted ones as one. */
  endRequest(request: NaiveRequest, reason: string, why: Refusal | null = null): void {
    const started = [...request.live].sort((a, b) => a.sample - b.sample);
    for (const sequence of started) sequence.leader = null;
    for (const sequence of started) this.endSequence(sequence, reason, -1, why);
    this.endUnstarted(request, reason, why);
  }

  /** What is computed from now on is of other weights: what sequences hold of the old ones may not be hit under the new version. */
  replaceWeights(version: number): void {
    this.weightVersion = version;
    this.blocks.forget();
    for (const sequence of this.sequences) if (sequence.blocks.length > 0) sequence.stale = true;
  }

  /** A drain may be over, and pauses may have come true. */
  settlePauses(): void {
    const drained = [...this.requests.values()].every((request) => request.held);
    if (this.pause === 'draining' && drained) this.pause = 'paused';
    if (this.pause !== 'paused' || this.inFlight.length > 0) return;
    for (const id of this.pendingPauses) this.ack(id);
    this.pendingPauses = [];
  }

  ack(command: number, why: Refusal | null = null): void {
    this.out.acks.push({
      command,
      code: why?.code ?? 'none',
      value: why?.value ?? 0,
      limit: why?.limit ?? 0,
    });
  }

  takeOutput(step: number, weightVersion: number): NaiveOutput {
    const out = this.out;
    this.out = emptyOutput();
    return { ...out, step, weightVersion };
  }
}
