// What the core's check_integrity looks at, by the numbers that it returns (assembly/integrity.ts). Each sentence is true of a
// healthy core; the error names the one that is not.

export const INTEGRITY_RULES: ReadonlyMap<number, string> = new Map([
  [1, 'free, cached and held blocks add up to the whole pool'],
  [2, 'a free block has no owner, is not cached or registered, and is listed once'],
  [3, 'cached blocks have no owner, are registered, and are listed once, the least recently used first'],
  [4, 'a block has as many owners as entries of block tables name it'],
  [5, 'the prefix cache finds each registered block, and no other'],
  [6, 'running sequences are sorted by priority, arrival and sample'],
  [7, 'at most maxNumSeqs sequences run'],
  [8, 'free and owned slots add up to maxNumSeqs'],
  [9, 'no slot is free and owned'],
  [10, 'sequence records add up: free, running, waiting, or ended with a step in flight'],
  [11, 'the waiting queue is a heap by priority, arrival and sample'],
  [12, 'whatever is in the waiting queue waits'],
  [13, 'live requests are listed by arrival, found by their id, and add up'],
  [14, 'a live request has a sample that has not started or a sequence that has not ended'],
  [15, 'samples that have not started add up over all requests'],
  [16, "a sequence's computed, known and most tokens and its block table are within bounds"],
  [17, 'a request with samples that have not started is queued, held back by a pause, or in prefill'],
  [18, 'free and used bytes of the token heap add up'],
  [19, 'steps in flight add up'],
  [20, 'a sequence whose partial block has other owners knows of them, so that it copies before it writes'],
]);

export function integrityRule(rule: number): string {
  return INTEGRITY_RULES.get(rule) ?? `rule ${rule}, which this version does not know`;
}
