// Memory for token ids, of sizes known only at run time: a buddy allocator over one region (Knowlton, 1965).
//
// Sizes are powers of two from 64 bytes. One byte per smallest block says the order of the allocation or free block that begins there
// (0 = nothing begins there, order + 1, with FREE set when it is free). Free blocks of one order form a list through their first words.
import { CoreState } from './core_state';
import { ensure } from './errors';

const MIN_SHIFT: u32 = 6;
const FREE: u8 = 0x80;
export const MAX_ORDERS: u32 = 27;

// A free block: next at +0, previous at +4, as offsets in units of the smallest block + 1.
function orderByte(c: CoreState, unit: u32): usize {
  return c.heapOrders + <usize>unit;
}

function addressOf(c: CoreState, unit: u32): usize {
  return c.heap + ((<usize>unit) << MIN_SHIFT);
}

function listHead(c: CoreState, order: u32): usize {
  return c.heapFree + ((<usize>order) << 2);
}

function link(c: CoreState, unit: u32, order: u32): void {
  const head = load<u32>(listHead(c, order));
  store<u32>(addressOf(c, unit), head);
  store<u32>(addressOf(c, unit) + 4, 0);
  if (head != 0) store<u32>(addressOf(c, head - 1) + 4, unit + 1);
  store<u32>(listHead(c, order), unit + 1);
  store<u8>(orderByte(c, unit), <u8>(order + 1) | FREE);
}

function unlink(c: CoreState, unit: u32, order: u32): void {
  const next = load<u32>(addressOf(c, unit));
  const previous = load<u32>(addressOf(c, unit) + 4);
  if (previous != 0) store<u32>(addressOf(c, previous - 1), next);
  else store<u32>(listHead(c, order), next);
  if (next != 0) store<u32>(addressOf(c, next - 1) + 4, previous);
  store<u8>(orderByte(c, unit), 0);
}

function topOrder(c: CoreState): u32 {
  return <u32>(ctz<u64>(c.heapBytes) - MIN_SHIFT);
}

/** The whole region as one free block. heapBytes is a power of two. */
export function heapInit(c: CoreState): void {
  link(c, 0, topOrder(c));
  c.heapHighWater = 16;
}

function orderFor(bytes: u64): u32 {
  if (bytes <= 1 << MIN_SHIFT) return 0;
  return 64 - <u32>clz<u64>(bytes - 1) - MIN_SHIFT;
}

/** What an allocation of `bytes` really takes. */
export function heapTakes(bytes: u64): u64 {
  return (<u64>1) << (orderFor(bytes) + MIN_SHIFT);
}

/** Memory for `bytes`, or 0 when there is none. */
export function heapAllocate(c: CoreState, bytes: u64): usize {
  const order = orderFor(bytes);
  const top = topOrder(c);
  let found = order;
  while (found <= top && load<u32>(listHead(c, found)) == 0) found++;
  if (found > top) return 0;
  const unit = load<u32>(listHead(c, found)) - 1;
  unlink(c, unit, found);
  while (found > order) {
    found--;
    link(c, unit + (1 << found), found);
    touch(c, unit + (1 << found));
  }
  store<u8>(orderByte(c, unit), <u8>(order + 1));
  c.heapUsedBytes += (<u64>1) << (order + MIN_SHIFT);
  touch(c, unit + (1 << order) - 1);
  return addressOf(c, unit);
}

/** Everything a snapshot must hold lies below the high-water mark. */
function touch(c: CoreState, unit: u32): void {
  const end = (<u64>unit + 1) << MIN_SHIFT;
  if (end > c.heapHighWater) c.heapHighWater = end;
}

export function heapFree(c: CoreState, address: usize): void {
  let unit = <u32>((address - c.heap) >> MIN_SHIFT);
  const mark = load<u8>(orderByte(c, unit));
  ensure(mark != 0 && (mark & FREE) == 0, 'token memory is freed once');
  let order = <u32>mark - 1;
  c.heapUsedBytes -= (<u64>1) << (order + MIN_SHIFT);
  store<u8>(orderByte(c, unit), 0);
  const top = topOrder(c);
  while (order < top) {
    const buddy = unit ^ (1 << order);
    if (load<u8>(orderByte(c, buddy)) != (<u8>(order + 1) | FREE)) break;
    unlink(c, buddy, order);
    unit &= ~(1 << order);
    order++;
  }
  link(c, unit, order);
}

/** Bytes that the allocation at `address` really has. */
export function heapCapacity(c: CoreState, address: usize): u32 {
  const unit = <u32>((address - c.heap) >> MIN_SHIFT);
  return 1 << (<u32>load<u8>(orderByte(c, unit)) - 1 + MIN_SHIFT);
}

/** Memory of at least `bytes` with the old content at its start, or 0 (the old stays valid). */
export function heapGrow(c: CoreState, address: usize, bytes: u64): usize {
  const fresh = heapAllocate(c, bytes);
  if (fresh == 0) return 0;
  memory.copy(fresh, address, heapCapacity(c, address));
  heapFree(c, address);
  return fresh;
}

/** Free bytes by walking the lists: for the integrity check. */
export function heapFreeBytes(c: CoreState): u64 {
  let bytes: u64 = 0;
  for (let order: u32 = 0; order <= topOrder(c); order++) {
    let unit = load<u32>(listHead(c, order));
    while (unit != 0) {
      bytes += (<u64>1) << (order + MIN_SHIFT);
      unit = load<u32>(addressOf(c, unit - 1));
    }
  }
  return bytes;
}
