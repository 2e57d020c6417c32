// The Inventory table: every live request and every sequence record in use, for people and tools.
import { CoreState } from './core_state';
import { numUnstarted, Request } from './request';
import { SEQUENCE_BYTES, Sequence, SequenceState } from './sequence';
import { Inventory } from './wire/generated/output';

/** Where a vector's elements come to stand when it is put at the cursor: they are written there first, and then put in place. */
function elementsAt(cursor: usize, alignment: usize): usize {
  return (cursor + 4 + alignment - 1) & ~(alignment - 1);
}

/** Writes the Inventory to the output buffer and gives its address; its size goes to `c.messageBytes`. */
export function writeInventory(c: CoreState, buffer: usize): usize {
  const inventory = Inventory.start_root(buffer);
  let at = Inventory.end_of(inventory);
  at = putRequests(c, inventory, at);
  at = putSequences(c, inventory, at);
  c.messageBytes = <u32>(at - buffer);
  return buffer;
}

function putRequests(c: CoreState, inventory: usize, cursor: usize): usize {
  const count = c.numLive;
  let at = cursor;
  let to = elementsAt(at, 8);
  for (let next = c.firstLive; next != 0; next = changetype<Request>(next).nextLive, to += 8)
    store<u64>(to, changetype<Request>(next).id);
  at = Inventory.put_request_id(inventory, at, elementsAt(at, 8), count);
  to = elementsAt(at, 8);
  for (let next = c.firstLive; next != 0; next = changetype<Request>(next).nextLive, to += 8)
    store<u64>(to, changetype<Request>(next).arrival);
  at = Inventory.put_request_arrival(inventory, at, elementsAt(at, 8), count);
  at = Inventory.put_request_priority(inventory, at, putRequestColumn(c, at, RequestField.priority), count);
  at = Inventory.put_request_prompt_tokens(
    inventory,
    at,
    putRequestColumn(c, at, RequestField.promptTokens),
    count,
  );
  at = Inventory.put_request_unstarted(inventory, at, putRequestColumn(c, at, RequestField.unstarted), count);
  to = elementsAt(at, 1);
  for (let next = c.firstLive; next != 0; next = changetype<Request>(next).nextLive, to++)
    store<u8>(to, changetype<Request>(next).held ? 1 : 0);
  return Inventory.put_request_held(inventory, at, elementsAt(at, 1), count);
}

/** Fields of a request that are a column of 32 bits. */
const enum RequestField {
  priority = 0,
  promptTokens = 1,
  unstarted = 2,
}

function requestField(request: Request, field: RequestField): u32 {
  if (field == RequestField.priority) return <u32>request.priority;
  return field == RequestField.promptTokens ? request.numPromptTokens : numUnstarted(request);
}

/** Writes a column where it comes to stand at the cursor, and gives its first element. */
function putRequestColumn(c: CoreState, cursor: usize, field: RequestField): usize {
  let to = elementsAt(cursor, 4);
  for (let next = c.firstLive; next != 0; next = changetype<Request>(next).nextLive, to += 4)
    store<u32>(to, requestField(changetype<Request>(next), field));
  return elementsAt(cursor, 4);
}

/** Fields of a sequence that are a column of 32 bits. */
const enum SequenceField {
  sample = 0,
  slot = 1,
  tokens = 2,
  computed = 3,
  blocks = 4,
  preemptions = 5,
}

function sequenceField(sequence: Sequence, field: SequenceField): u32 {
  if (field == SequenceField.sample) return sequence.sample;
  if (field == SequenceField.slot) return sequence.slot;
  if (field == SequenceField.tokens) return sequence.numTokens;
  if (field == SequenceField.computed) return sequence.computed;
  return field == SequenceField.blocks ? sequence.numBlocks : sequence.preemptions;
}

/** The next record in use at or after `address`, or the end. */
function nextInUse(c: CoreState, address: usize): usize {
  const end = c.sequences + <usize>c.numSequenceRecords * SEQUENCE_BYTES;
  let at = address;
  while (at < end && changetype<Sequence>(at).state == SequenceState.free) at += SEQUENCE_BYTES;
  return at;
}

function putSequenceColumn(c: CoreState, cursor: usize, count: u32, field: SequenceField): usize {
  let from = c.sequences;
  let to = elementsAt(cursor, 4);
  for (let index: u32 = 0; index < count; index++, to += 4) {
    from = nextInUse(c, from);
    store<u32>(to, sequenceField(changetype<Sequence>(from), field));
    from += SEQUENCE_BYTES;
  }
  return elementsAt(cursor, 4);
}

function putSequences(c: CoreState, inventory: usize, cursor: usize): usize {
  const count = c.numSequenceRecords - c.numFreeSequences;
  let at = cursor;
  let from = c.sequences;
  let to = elementsAt(at, 8);
  for (let index: u32 = 0; index < count; index++, to += 8) {
    from = nextInUse(c, from);
    store<u64>(to, changetype<Sequence>(from).requestId);
    from += SEQUENCE_BYTES;
  }
  at = Inventory.put_sequence_request(inventory, at, elementsAt(at, 8), count);
  at = Inventory.put_sequence_sample(
    inventory,
    at,
    putSequenceColumn(c, at, count, SequenceField.sample),
    count,
  );
  from = c.sequences;
  to = elementsAt(at, 1);
  for (let index: u32 = 0; index < count; index++, to++) {
    from = nextInUse(c, from);
    store<u8>(to, <u8>changetype<Sequence>(from).state);
    from += SEQUENCE_BYTES;
  }
  at = Inventory.put_sequence_state(inventory, at, elementsAt(at, 1), count);
  at = Inventory.put_sequence_slot(inventory, at, putSequenceColumn(c, at, count, SequenceField.slot), count);
  at = Inventory.put_sequence_tokens(
    inventory,
    at,
    putSequenceColumn(c, at, count, SequenceField.tokens),
    count,
  );
  at = Inventory.put_sequence_computed(
    inventory,
    at,
    putSequenceColumn(c, at, count, SequenceField.computed),
    count,
  );
  at = Inventory.put_sequence_blocks(
    inventory,
    at,
    putSequenceColumn(c, at, count, SequenceField.blocks),
    count,
  );
  return Inventory.put_sequence_preemptions(
    inventory,
    at,
    putSequenceColumn(c, at, count, SequenceField.preemptions),
    count,
  );
}
