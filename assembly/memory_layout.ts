// Where everything lies. One bump through memory, in 64 bits, so that a configuration that is too large is refused and not wrapped.
// The same walk serves to ask how much a configuration needs (on a small instance) and to lay it out.

import { MAX_BIASES, MAX_STOP_TOKEN_IDS } from './admission';
import { BLOCK_BYTES } from './block_pool';
import { CONTROL_BYTES } from './control_queue';
import {
  CoreState,
  LAYOUT_START,
  MAX_ACKS,
  MAX_ADAPTERS,
  MAX_EOS_TOKEN_IDS,
  MAX_PENDING_CONTROLS,
  MAX_PENDING_PAUSES,
  MAX_STEPS_IN_FLIGHT,
} from './core_state';
import { REQUEST_BYTES } from './request';
import { SEQUENCE_BYTES } from './sequence';
import { STEP_RECORD_BYTES, StepRecord } from './step_record';
import { MAX_ORDERS } from './token_heap';
import { LoadAdapter } from './wire/generated/command';
import { Instruction, StepPlan } from './wire/generated/instruction';
import { Output } from './wire/generated/output';
import { SamplingParams } from './wire/generated/types';

export const MAX_LOGPROBS: u32 = 64;
const MIN_HEAP_BYTES: u64 = 1 << 16;
const MAX_HEAP_BYTES: u64 = 1 << 31;
const RESULT_ROW_BYTES: u64 = 64 + <u64>MAX_LOGPROBS * 8;

/** A region of `count` elements, 16-aligned and padded to whole words: messages of columns are copied in words. */
function take(c: CoreState, count: u64, bytes: u64): usize {
  const at = c.layoutEnd;
  c.layoutEnd = (at + count * bytes + 31) & ~15;
  return <usize>at;
}

function powerOfTwo(atLeast: u64): u64 {
  return atLeast <= 1 ? 1 : (<u64>1) << (64 - clz<u64>(atLeast - 1));
}

/** Token memory when the configuration leaves it open: room for all that runs, twice (growth), and for the prompts that wait. */
export function defaultHeapBytes(c: CoreState): u64 {
  const running = <u64>c.maxNumSeqs * <u64>c.maxModelLen * 16;
  const waiting = <u64>c.maxNumRequests * 4096;
  return min<u64>(powerOfTwo(running + waiting), MAX_HEAP_BYTES >> 1);
}

/** Sets every pointer and capacity of the state from its configuration, and gives the bytes of memory that this takes. */
export function layOut(c: CoreState, heapBytes: u64): u64 {
  const seqs = <u64>c.maxNumSeqs;
  const rows = <u64>c.maxNumBatchedTokens;
  const requests = <u64>c.maxNumRequests;
  const blocks = <u64>c.numBlocks;
  const perSequence = <u64>c.maxBlocksPerSequence;
  const records = seqs * 2;
  c.layoutEnd = LAYOUT_START;

  c.eosTokenIds = take(c, MAX_EOS_TOKEN_IDS, 4);
  c.pendingPauses = take(c, MAX_PENDING_PAUSES, 8);
  c.adapters = take(c, MAX_ADAPTERS + MAX_PENDING_CONTROLS, 4); // those of unloads that failed come back
  c.controls = take(c, MAX_PENDING_CONTROLS, CONTROL_BYTES);

  c.records = take(c, MAX_STEPS_IN_FLIGHT, STEP_RECORD_BYTES);
  for (let index: u32 = 0; index < MAX_STEPS_IN_FLIGHT; index++) layOutRecord(c, index, seqs);

  c.requests = take(c, requests, REQUEST_BYTES);
  c.freeRequests = take(c, requests, 4);
  const mapSize = powerOfTwo(requests * 2);
  c.requestMapMask = <u32>mapSize - 1;
  c.requestMap = take(c, mapSize, 4);

  c.numSequenceRecords = <u32>records;
  c.layoutEnd = (c.layoutEnd + 63) & ~63; // records of whole cache lines
  c.sequences = take(c, records, SEQUENCE_BYTES);
  c.freeSequences = take(c, records, 4);
  c.freeSlots = take(c, seqs, 4);
  c.blockTables = take(c, seqs * perSequence, 4);
  c.running = take(c, seqs + 1, 4);
  c.waiting = take(c, requests + records, 4);

  c.blocks = take(c, blocks, BLOCK_BYTES);
  c.freeBlocks = take(c, blocks, 4);
  c.blockTokens = take(c, blocks * <u64>c.blockSize, 4);
  const blockMapSize = powerOfTwo(blocks * 2);
  c.blockMapMask = <u32>blockMapSize - 1;
  c.blockMap = take(c, blockMapSize, 4);
  c.hits = take(c, perSequence, 4);
  c.listedSequences = take(c, seqs, 4);
  c.listedEnds = take(c, seqs, 4);
  c.listedHashes = take(c, seqs, 8);
  c.listedEntries = take(c, seqs, 4);

  layOutPlan(c, seqs, rows, blocks, perSequence);
  layOutOutput(c, seqs, requests, records);

  c.heapBytes = min<u64>(max<u64>(powerOfTwo(heapBytes), MIN_HEAP_BYTES), MAX_HEAP_BYTES);
  c.heapFree = take(c, MAX_ORDERS, 4);
  c.heapOrders = take(c, c.heapBytes >> 6, 1);
  c.heap = take(c, c.heapBytes, 1);

  c.marks = take(c, blocks, 4); // from here on: no part of a snapshot
  const commandBytes = (8 << 20) + <u64>c.maxModelLen * 8;
  c.commandBoxBytes = <u32>commandBytes;
  c.commandBox = take(c, commandBytes, 1);
  const resultBytes = (1 << 16) + (seqs + rows) * RESULT_ROW_BYTES;
  c.resultBoxBytes = <u32>resultBytes;
  c.resultBox = take(c, resultBytes, 1);
  return c.layoutEnd;
}

function layOutRecord(c: CoreState, index: u32, seqs: u64): void {
  const sequences = take(c, seqs, 4);
  const epochs = take(c, seqs, 4);
  const ends = take(c, seqs, 4);
  const samples = take(c, seqs, 4);
  const scoredRequests = take(c, seqs, 4);
  const scoredArrivals = take(c, seqs, 8);
  const scoredPositions = take(c, seqs, 4);
  const scoredFirst = take(c, seqs, 4);
  const scoredCounts = take(c, seqs, 4);
  if (!c.configured) return; // only asked for the size: there may be no memory behind these addresses
  const record = changetype<StepRecord>(c.records + <usize>index * STEP_RECORD_BYTES);
  record.sequences = sequences;
  record.epochs = epochs;
  record.ends = ends;
  record.samples = samples;
  record.scoredRequests = scoredRequests;
  record.scoredArrivals = scoredArrivals;
  record.scoredPositions = scoredPositions;
  record.scoredFirst = scoredFirst;
  record.scoredCounts = scoredCounts;
}

function layOutPlan(c: CoreState, seqs: u64, rows: u64, blocks: u64, perSequence: u64): void {
  const history = <u64>c.maxModelLen + rows;
  const stops = <u64>(MAX_STOP_TOKEN_IDS + MAX_EOS_TOKEN_IDS) + 4096;
  const biases = <u64>MAX_BIASES + 4096;
  const changes = 2 * seqs + rows + blocks + 4 * perSequence + 2 * seqs + rows;
  c.historyCapacity = <u32>history;
  c.stopCapacity = <u32>stops;
  c.biasCapacity = <u32>biases;
  c.tableCapacity = <u32>changes;
  const begin = c.layoutEnd;
  c.openSlot = take(c, seqs, 4);
  c.openSample = take(c, seqs, 4);
  c.openPromptTokens = take(c, seqs, 4);
  c.openAdapter = take(c, seqs, 4);
  c.openParams = take(c, seqs, SamplingParams.BYTES);
  c.openHistoryEnd = take(c, seqs, 4);
  c.history = take(c, history, 4);
  c.openStopEnd = take(c, seqs, 4);
  c.stops = take(c, stops, 4);
  c.openBiasEnd = take(c, seqs, 4);
  c.biasTokens = take(c, biases, 4);
  c.biases = take(c, biases, 4);
  c.tableSlot = take(c, changes, 4);
  c.tableIndex = take(c, changes, 4);
  c.tableBlock = take(c, changes, 4);
  c.copySource = take(c, seqs, 4);
  c.copyTarget = take(c, seqs, 4);
  c.sequenceSlot = take(c, seqs, 4);
  c.sequenceStart = take(c, seqs, 4);
  c.sequenceTokens = take(c, seqs, 4);
  c.tokenIds = take(c, rows, 4);
  c.sampleRow = take(c, seqs, 4);
  c.sampleSlot = take(c, seqs, 4);
  c.scoreRow = take(c, rows, 4);
  c.scoreSlot = take(c, rows, 4);
  c.scoreToken = take(c, rows, 4);
  // The message is the columns and what their tables take, or a control with its strings.
  const columns = c.layoutEnd - begin;
  const overhead =
    <u64>(Instruction.OVERHEAD_BYTES + StepPlan.OVERHEAD_BYTES + LoadAdapter.OVERHEAD_BYTES) + 2 * 4096 + 64;
  const capacity = (columns + overhead + 15) & ~15;
  c.instructionCapacity = <u32>capacity;
  c.instructions = take(c, MAX_STEPS_IN_FLIGHT, capacity);
}

function layOutOutput(c: CoreState, seqs: u64, requests: u64, records: u64): void {
  const finishes = requests + records + 16;
  const starts = 2 * seqs + 16;
  const begin = c.layoutEnd;
  c.outTokenRequest = take(c, seqs, 8);
  c.outTokenSample = take(c, seqs, 4);
  c.outTokenRow = take(c, seqs, 4);
  c.outTokenId = take(c, seqs, 4);
  c.outScoreRequest = take(c, seqs, 8);
  c.outScorePosition = take(c, seqs, 4);
  c.outScoreFirst = take(c, seqs, 4);
  c.outScoreCount = take(c, seqs, 4);
  c.outFinishRequest = take(c, finishes, 8);
  c.outFinishSample = take(c, finishes, 4);
  c.outFinishCount = take(c, finishes, 4);
  c.outFinishReason = take(c, finishes, 1);
  c.outFinishStopToken = take(c, finishes, 4);
  c.outFinishCode = take(c, finishes, 2);
  c.outFinishValue = take(c, finishes, 8);
  c.outFinishLimit = take(c, finishes, 8);
  c.outFinishPreemptions = take(c, finishes, 4);
  c.outStartRequest = take(c, starts, 8);
  c.outStartCachedTokens = take(c, starts, 4);
  const columns = c.layoutEnd - begin;
  c.output = take(c, columns + <u64>Output.OVERHEAD_BYTES + <u64>MAX_ACKS * 26 + 64, 1);
}
