// The words of the naive model: what enters it, what it plans and what it says. All plain, all spelled out; sequences appear by
// reference, so that a test can rename the core's slots and blocks to the model's.

export interface NaiveConfig {
  maxNumSeqs: number;
  maxNumBatchedTokens: number;
  maxModelLen: number;
  numBlocks: number;
  blockSize: number;
  vocabSize: number;
  maxNumRequests: number;
  longPrefillTokenThreshold: number;
  enablePrefixCache: boolean;
  maxStepsInFlight: number;
  maxN: number;
  maxLogprobs: number;
  eosTokenIds: number[];
}

/** A request with every field given. */
export interface NaiveRequestInput {
  id: number;
  promptTokenIds: number[];
  n: number;
  priority: number;
  adapter: number;
  cacheSalt: number;
  seed: number;
  temperature: number;
  topP: number;
  topK: number;
  minP: number;
  repetitionPenalty: number;
  presencePenalty: number;
  frequencyPenalty: number;
  maxTokens: number;
  minTokens: number;
  logprobs: number;
  promptLogprobs: number;
  ignoreEos: boolean;
  stopTokenIds: number[];
  logitBias: { tokenId: number; bias: number }[];
}

export type MemoryTag = 'kv_cache' | 'weights';

export type NaiveCommand = { id: number } & (
  | { type: 'addRequests'; requests: NaiveRequestInput[] }
  | { type: 'abortRequests'; requestIds: number[]; all: boolean }
  | { type: 'pauseGeneration'; mode: 'abort' | 'wait' | 'keep' | 'retract' }
  | { type: 'resumeGeneration' }
  | { type: 'resetPrefixCache'; force: boolean }
  | { type: 'beginWeightUpdate' }
  | { type: 'finishWeightUpdate'; version: number; succeeded: boolean }
  | { type: 'releaseMemory'; tags: MemoryTag[]; abortRunning: boolean }
  | { type: 'resumeMemory'; tags: MemoryTag[] }
  | { type: 'loadAdapter'; adapter: number }
  | { type: 'unloadAdapter'; adapter: number }
  | {
      type: 'setParallelGroups';
      tensorParallelSize: number;
      pipelineParallelSize: number;
      dataParallelSize: number;
    }
  | { type: 'shutdown' }
);

/** A refusal: the code, the value that was refused and the limit it broke (0 where there is none). */
export interface Refusal {
  code: string;
  value: number;
  limit: number;
}

export interface NaiveRequest {
  input: NaiveRequestInput;
  arrival: number;
  nextSample: number;
  /** The sequence that computes the prompt for its group, until it has fanned out. */
  leader: NaiveSequence | null;
  /** Kept apart by a pause of mode wait until resume. */
  held: boolean;
  startReported: boolean;
  /** Prompt positions whose log-prob has been asked for. */
  scored: number;
  live: Set<NaiveSequence>;
  preemptions: Map<number, number>;
  /** The schedule in which the group fanned out: its further samples may be admitted only in a later one. */
  fannedOutInSchedule: number;
}

export type SequenceState = 'running' | 'preempted' | 'ended';

export interface NaiveSequence {
  request: NaiveRequest;
  sample: number;
  state: SequenceState;
  /** leader: computes the prompt; follower: waits for the leader's fan-out; alone: neither (any more). */
  role: 'leader' | 'follower' | 'alone';
  leader: NaiveSequence | null;
  outputs: number[];
  computed: number;
  committed: number;
  /** Blocks of the table whose content is in the prefix cache, or was when they became full; `chain` names the last of them there. */
  registered: number;
  chain: number;
  /** Holds KV that may not enter the prefix cache (older weights, or a cache that has been forgotten). */
  stale: boolean;
  blocks: NaiveBlock[];
  stepsInFlight: number;
  samplesInFlight: number;
  hasSlot: boolean;
  opened: boolean;
  plannedInSchedule: number;
  /** How often it lost its blocks; a step planned before the last time says nothing about the present ones. */
  incarnation: number;
}

export interface NaiveBlock {
  id: number;
  owners: Set<NaiveSequence>;
  /** What it is found by when it is in the prefix cache: the parent's serial (or the root) and its tokens. */
  key: string | null;
  /** Its own name there, never used twice. */
  serial: number;
}

export interface PlannedSequence {
  sequence: NaiveSequence;
  start: number;
  tokenIds: number[];
}

/** What a step will have proven once it is committed: this sequence's positions up to `end`, unless it was preempted since. */
export interface Progress {
  sequence: NaiveSequence;
  incarnation: number;
  end: number;
}

export interface NaiveStep {
  kind: 'step';
  step: number;
  weightVersion: number;
  opens: { sequence: NaiveSequence; tokenIds: number[] }[];
  table: { sequence: NaiveSequence; index: number; block: NaiveBlock }[];
  copies: { source: NaiveBlock; target: NaiveBlock }[];
  sequences: PlannedSequence[];
  /** The sequences computed and, right after their leader, those that share what it computed. */
  progress: Progress[];
  samples: { row: number; sequence: NaiveSequence }[];
  /** Followers that took over their leader's prompt. */
  fanOuts: { leader: NaiveSequence; followers: NaiveSequence[] }[];
  scores: { row: number; sequence: NaiveSequence; tokenId: number; position: number }[];
}

export interface NaiveControl {
  kind: 'control';
  step: number;
  weightVersion: number;
  work: NaiveCommand;
}

export type NaiveInstruction = NaiveStep | NaiveControl;

export interface NaiveResult {
  step: number;
  code: string;
  tokenIds: number[];
  rowCodes: string[];
}

export interface NaiveOutput {
  step: number;
  weightVersion: number;
  tokens: { request: number; sample: number; row: number; tokenId: number }[];
  scores: { request: number; position: number; first: number; count: number }[];
  finishes: {
    request: number;
    sample: number;
    count: number;
    reason: string;
    stopToken: number;
    code: string;
    value: number;
    limit: number;
    preemptions: number;
  }[];
  starts: { request: number; cachedTokens: number }[];
  acks: { command: number; code: string; value: number; limit: number }[];
}
