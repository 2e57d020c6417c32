// What the waiting queue and the running list are ordered by. Requests and sequences both begin with these fields.
//
// Key: (priority, arrival, sample), smaller first. Two entries never have equal keys: a sample is in one place at a time.

export const enum EntryKind {
  request = 1,
  sequence = 2,
}

@unmanaged
export class Entry {
  kind: u32;
  queueIndex: u32; // place in the waiting queue + 1; 0 = not in it
  priority: i32;
  sample: u32; // of a request: the next sample that is not started
  arrival: u64;
}

export function precedes(a: Entry, b: Entry): bool {
  if (a.priority != b.priority) return a.priority < b.priority;
  if (a.arrival != b.arrival) return a.arrival < b.arrival;
  return a.sample < b.sample;
}
