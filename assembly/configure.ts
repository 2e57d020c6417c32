// Configure: the first command. Checks the configuration, lays the memory out and fills the free lists.
import { pushFree } from './block_pool';
import { CORE_ADDRESS, CoreState, MAX_EOS_TOKEN_IDS, MAX_STEPS_IN_FLIGHT } from './core_state';
import { defaultHeapBytes, layOut, MAX_LOGPROBS } from './memory_layout';
import { putAck } from './output';
import { REQUEST_BYTES } from './request';
import { SEQUENCE_BYTES } from './sequence';
import { heapInit } from './token_heap';
import { Configure } from './wire/generated/command';
import { ErrorCode } from './wire/generated/types';

const MAX_SEQS: u32 = 1 << 16;
const MAX_ROWS: u32 = 1 << 20;
const MAX_TOKENS: u32 = 1 << 24;
const MAX_BLOCKS: u32 = 1 << 24;
const MAX_REQUESTS: u32 = 1 << 20;
const MAX_VOCABULARY: u32 = 1 << 24;
const MEMORY_LIMIT: u64 = 1 << 32;

export function shape(
  c: CoreState,
  maxNumSeqs: u32,
  maxNumBatchedTokens: u32,
  maxModelLen: u32,
  numBlocks: u32,
  blockSize: u32,
  maxNumRequests: u32,
): bool {
  c.maxNumSeqs = maxNumSeqs;
  c.maxNumBatchedTokens = maxNumBatchedTokens;
  c.maxModelLen = maxModelLen;
  c.numBlocks = numBlocks;
  c.blockSize = blockSize;
  c.maxNumRequests = maxNumRequests;
  const fits =
    inRange(maxNumSeqs, MAX_SEQS) &&
    inRange(maxNumBatchedTokens, MAX_ROWS) &&
    inRange(maxModelLen, MAX_TOKENS) &&
    inRange(numBlocks, MAX_BLOCKS) &&
    inRange(maxNumRequests, MAX_REQUESTS) &&
    blockSize >= 2 &&
    blockSize <= 1024 &&
    (blockSize & (blockSize - 1)) == 0;
  if (!fits) return false;
  c.blockShift = ctz<u32>(blockSize);
  c.lengthLimit = <u32>min<u64>(<u64>maxModelLen, (<u64>numBlocks) << c.blockShift);
  c.maxBlocksPerSequence = (c.lengthLimit + blockSize - 1) >> c.blockShift;
  return true;
}

function inRange(value: u32, most: u32): bool {
  return value >= 1 && value <= most;
}

/** Bytes of memory for this shape, or 0 when it is out of range or needs more than 4 GiB. Works on a scratch state. */
export function bytesFor(c: CoreState, heapBytes: u64): u64 {
  const bytes = layOut(c, heapBytes != 0 ? heapBytes : defaultHeapBytes(c));
  return bytes < MEMORY_LIMIT ? bytes : 0;
}

export function configure(c: CoreState, id: u64, table: usize): void {
  if (c.configured) return putAck(c, id, ErrorCode.already_configured);
  if (!readConfig(c, table)) return refuse(c, id);
  const heapBytes = Configure.token_heap_bytes(table);
  const needed = bytesFor(c, heapBytes);
  if (needed == 0 || needed > (<u64>memory.size()) << 16) return refuse(c, id);
  c.configured = true;
  layOut(c, heapBytes != 0 ? heapBytes : defaultHeapBytes(c));
  memory.copy(c.eosTokenIds, Configure.eos_token_ids(table), (<usize>c.numEosTokenIds) << 2);
  c.weightsUsable = true;
  memory.fill(c.blocks, 0, c.hits - c.blocks); // zero already, but not yet resident: no page faults in the steps
  fillFreeLists(c);
  heapInit(c);
  putAck(c, id, ErrorCode.none);
}

function refuse(c: CoreState, id: u64): void {
  memory.fill(CORE_ADDRESS, 0, offsetof<CoreState>());
  putAck(c, id, ErrorCode.invalid_config);
}

function readConfig(c: CoreState, table: usize): bool {
  const shaped = shape(
    c,
    Configure.max_num_seqs(table),
    Configure.max_num_batched_tokens(table),
    Configure.max_model_len(table),
    Configure.num_blocks(table),
    Configure.block_size(table),
    Configure.max_num_requests(table),
  );
  c.vocabSize = Configure.vocab_size(table);
  c.longPrefillTokenThreshold = Configure.long_prefill_token_threshold(table);
  c.enablePrefixCache = Configure.enable_prefix_cache(table);
  c.maxStepsInFlight = Configure.max_steps_in_flight(table);
  c.maxN = Configure.max_n(table);
  c.maxLogprobs = Configure.max_logprobs(table);
  c.numEosTokenIds = Configure.eos_token_ids_length(table);
  return (
    shaped &&
    inRange(c.vocabSize, MAX_VOCABULARY) &&
    inRange(c.maxStepsInFlight, MAX_STEPS_IN_FLIGHT) &&
    inRange(c.maxN, MAX_TOKENS) &&
    c.maxLogprobs <= MAX_LOGPROBS &&
    c.numEosTokenIds <= MAX_EOS_TOKEN_IDS
  );
}

/** Stacks are filled downwards, so that the first to be taken is number 0. */
function fillFreeLists(c: CoreState): void {
  for (let index = c.numBlocks; index-- > 0; ) pushFree(c, index);
  for (let index = c.maxNumSeqs; index-- > 0; ) store<u32>(c.freeSlots + (c.numFreeSlots++ << 2), index);
  for (let index = c.numSequenceRecords; index-- > 0; ) {
    store<u32>(
      c.freeSequences + (c.numFreeSequences++ << 2),
      <u32>(c.sequences + <usize>index * SEQUENCE_BYTES),
    );
  }
  for (let index = c.maxNumRequests; index-- > 0; ) {
    store<u32>(c.freeRequests + (c.numFreeRequests++ << 2), <u32>(c.requests + <usize>index * REQUEST_BYTES));
  }
}
