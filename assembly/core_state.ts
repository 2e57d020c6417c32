// The core's whole state, at one fixed address. Nothing lives in a global: a copy of the memory is a snapshot, and copying it back
// is a restore. Every other module works on the regions that this header points to (memory_layout.ts says who lies where).
//
//   0            CORE_ADDRESS       EARLY_COMMAND            LAYOUT_START
//   | static data | CoreState, acks  | commands before Configure | regions, sized by the configuration ... | token heap | in-boxes |

export const CORE_ADDRESS: usize = 0x10000;
export const ACK_COLUMNS: usize = 0x12000;
export const EARLY_OUTPUT: usize = 0x18000;
export const EARLY_COMMAND: usize = 0x20000;
export const EARLY_COMMAND_BYTES: u32 = 0x60000;
export const LAYOUT_START: u64 = 0x80000;

export const MAX_ACKS: u32 = 128;
export const MAX_PENDING_CONTROLS: u32 = 64;
export const MAX_PENDING_PAUSES: u32 = 16;
export const MAX_ADAPTERS: u32 = 64;
export const MAX_EOS_TOKEN_IDS: u32 = 16;
export const MAX_STEPS_IN_FLIGHT: u32 = 2;

/** Whether generation goes on. `draining`: a pause of mode wait that still finishes what it found. */
export const enum Pause {
  none = 0,
  draining = 1,
  paused = 2,
}

@unmanaged
export class CoreState {
  // Configuration.
  configured: bool;
  enablePrefixCache: bool;
  maxNumSeqs: u32;
  maxNumBatchedTokens: u32;
  maxModelLen: u32;
  numBlocks: u32;
  blockSize: u32;
  blockShift: u32; // block_size = 1 << blockShift
  vocabSize: u32;
  maxNumRequests: u32;
  longPrefillTokenThreshold: u32;
  maxStepsInFlight: u32;
  maxN: u32;
  maxLogprobs: u32;
  lengthLimit: u32; // min(max_model_len, tokens that the KV pool holds)
  maxBlocksPerSequence: u32;
  numEosTokenIds: u32;
  eosTokenIds: usize;

  // Counters. All of them only grow.
  step: u64; // instructions given out
  arrivals: u64;
  blockSerials: u64; // names registered blocks, for parents in the prefix cache
  blockUses: u64; // orders evictions
  numPreemptions: u64;
  promptTokens: u64;
  cachedPromptTokens: u64;
  computedTokens: u64;
  generationTokens: u64;
  finishedSamples: u64;
  digest: u64;

  // Control state (weight_version.ts, memory_state.ts, pause.ts, adapter_table.ts, control_queue.ts).
  weightVersion: u64;
  projectedWeightVersion: u64; // once all accepted updates are carried out
  updatingWeights: bool;
  weightsUsable: bool;
  released: u8; // MemoryTags, as projected
  shutDown: bool;
  pause: Pause;
  numPendingPauses: u32;
  pendingPauses: usize; // u64 command ids
  firstHeld: usize; // requests that wait for the end of a drain, by arrival, linked by nextHeld
  lastHeld: usize;
  numHeld: u32;
  numPendingControls: u32;
  firstPendingControl: u32; // ring index
  controls: usize;
  controlInFlight: bool;
  numAdapters: u32;
  adapters: usize; // u32 ids, in order of loading

  // Steps in flight, oldest first, in a ring of MAX_STEPS_IN_FLIGHT (step_record.ts).
  numStepsInFlight: u32;
  oldestRecord: u32;
  records: usize;

  // Requests: records, free stack, live list by arrival, map from id.
  requests: usize;
  freeRequests: usize;
  numFreeRequests: u32;
  firstLive: usize;
  lastLive: usize;
  numLive: u32;
  requestMap: usize;
  requestMapMask: u32;

  // Sequences, slots, the running list (sorted by key) and the waiting queue (a binary heap by key).
  sequences: usize;
  freeSequences: usize;
  numFreeSequences: u32;
  numSequenceRecords: u32;
  freeSlots: usize;
  numFreeSlots: u32;
  blockTables: usize; // u32 [slot][maxBlocksPerSequence]
  running: usize;
  numRunning: u32;
  runningHasGaps: bool; // sequences in it have left; compacted before it is read again
  waiting: usize;
  numWaitingEntries: u32;
  numUnstarted: u32; // samples not started, over all requests
  numPreempted: u32; // sequences in the queue

  // KV blocks.
  blocks: usize;
  freeBlocks: usize; // stack
  numFreeBlocks: u32;
  firstCached: u32; // list of blocks that nobody holds but whose content may be hit; index + 1, 0 = none
  lastCached: u32;
  numCachedBlocks: u32;
  blockTokens: usize; // i32 [block][blockSize], of registered blocks
  blockMap: usize; // u32 index + 1
  blockMapMask: u32;
  marks: usize; // scratch of the integrity check: u32 per block
  hits: usize; // scratch: blocks of the last prefix lookup
  numListed: u32; // scratch: sequences with full blocks to register (prefix_cache.ts)
  listedSequences: usize;
  listedEnds: usize;
  listedHashes: usize; // u64
  listedEntries: usize;

  // Token heap.
  heap: usize;
  heapBytes: u64;
  heapUsedBytes: u64;
  heapHighWater: u64;
  heapOrders: usize; // u8 per smallest block
  heapFree: usize; // u32 per order: first free block

  // Columns of the step being planned (plan.ts). Counts first.
  numOpens: u32;
  numHistory: u32;
  numStops: u32;
  numBiases: u32;
  numTableChanges: u32;
  numCopies: u32;
  numSequences: u32;
  numRows: u32;
  numSamples: u32;
  numScores: u32;
  historyCapacity: u32;
  stopCapacity: u32;
  biasCapacity: u32;
  tableCapacity: u32;
  openSlot: usize;
  openSample: usize;
  openPromptTokens: usize;
  openAdapter: usize;
  openParams: usize;
  openHistoryEnd: usize;
  history: usize;
  openStopEnd: usize;
  stops: usize;
  openBiasEnd: usize;
  biasTokens: usize;
  biases: usize;
  tableSlot: usize;
  tableIndex: usize;
  tableBlock: usize;
  copySource: usize;
  copyTarget: usize;
  sequenceSlot: usize;
  sequenceStart: usize;
  sequenceTokens: usize;
  tokenIds: usize;
  sampleRow: usize;
  sampleSlot: usize;
  scoreRow: usize;
  scoreSlot: usize;
  scoreToken: usize;
  instructions: usize; // MAX_STEPS_IN_FLIGHT buffers
  instructionCapacity: u32;

  // Columns of the output being gathered (output.ts).
  output: usize;
  outputStep: u64;
  outputWeightVersion: u64;
  numOutTokens: u32;
  numOutScores: u32;
  numOutFinishes: u32;
  numOutStarts: u32;
  numOutAcks: u32;
  outTokenRequest: usize;
  outTokenSample: usize;
  outTokenRow: usize;
  outTokenId: usize;
  outScoreRequest: usize;
  outScorePosition: usize;
  outScoreFirst: usize;
  outScoreCount: usize;
  outFinishRequest: usize;
  outFinishSample: usize;
  outFinishCount: usize;
  outFinishReason: usize;
  outFinishStopToken: usize;
  outFinishCode: usize;
  outFinishValue: usize;
  outFinishLimit: usize;
  outFinishPreemptions: usize;
  outStartRequest: usize;
  outStartCachedTokens: usize;

  // In-boxes (not part of a snapshot) and the size of the message last handed out.
  commandBox: usize;
  commandBoxBytes: u32;
  resultBox: usize;
  resultBoxBytes: u32;
  messageBytes: u32;

  // Where the next region goes, while the layout is made.
  layoutEnd: u64;
}

export function core(): CoreState {
  return changetype<CoreState>(CORE_ADDRESS);
}
