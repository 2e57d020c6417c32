// The waiting queue: a binary heap of entries (requests with unstarted samples, preempted sequences) by key, smallest first.
// Each entry knows its place, so that an abort takes it out in O(log n).
import { CoreState } from './core_state';
import { Entry, EntryKind, precedes } from './entry';
import { ensure } from './errors';

function at(c: CoreState, index: u32): Entry {
  return changetype<Entry>(<usize>load<u32>(c.waiting + ((<usize>index) << 2)));
}

function place(c: CoreState, index: u32, entry: Entry): void {
  store<u32>(c.waiting + ((<usize>index) << 2), <u32>changetype<usize>(entry));
  entry.queueIndex = index + 1;
}

export function queueFirst(c: CoreState): Entry {
  return at(c, 0);
}

/** The first entry that is a preempted sequence, or 0. A walk: only for when sequence records have run out. */
export function queueFirstSequence(c: CoreState): usize {
  let first: usize = 0;
  for (let index: u32 = 0; index < c.numWaitingEntries; index++) {
    const entry = at(c, index);
    if (entry.kind != EntryKind.sequence) continue;
    if (first == 0 || precedes(entry, changetype<Entry>(first))) first = changetype<usize>(entry);
  }
  return first;
}

export function queuePush(c: CoreState, entry: Entry): void {
  ensure(entry.queueIndex == 0, 'an entry is queued once');
  rise(c, c.numWaitingEntries++, entry);
}

export function queueRemove(c: CoreState, entry: Entry): void {
  const index = entry.queueIndex - 1;
  ensure(index < c.numWaitingEntries && at(c, index) == entry, 'a queued entry knows its place');
  entry.queueIndex = 0;
  const last = at(c, --c.numWaitingEntries);
  if (last == entry) return;
  if (index > 0 && precedes(last, at(c, (index - 1) >> 1))) rise(c, index, last);
  else sink(c, index, last);
}

/** Call when an entry's key has become larger in place (a request whose next sample has moved on). */
export function queueSunk(c: CoreState, entry: Entry): void {
  sink(c, entry.queueIndex - 1, entry);
}

function rise(c: CoreState, from: u32, entry: Entry): void {
  let index = from;
  while (index > 0) {
    const parent = (index - 1) >> 1;
    const above = at(c, parent);
    if (!precedes(entry, above)) break;
    place(c, index, above);
    index = parent;
  }
  place(c, index, entry);
}

function sink(c: CoreState, from: u32, entry: Entry): void {
  let index = from;
  const count = c.numWaitingEntries;
  for (;;) {
    let child = (index << 1) + 1;
    if (child >= count) break;
    if (child + 1 < count && precedes(at(c, child + 1), at(c, child))) child++;
    const below = at(c, child);
    if (!precedes(below, entry)) break;
    place(c, index, below);
    index = child;
  }
  place(c, index, entry);
}
