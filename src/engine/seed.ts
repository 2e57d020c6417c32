// Seeds for requests that bring none. Request number k of an engine gets the k-th output of SplitMix64 started at the engine's seed,
// so the same calls in the same order give the same samples again, and neighbouring requests share nothing.
// SplitMix64: Steele, Lea, Flood, "Fast splittable pseudorandom number generators" (2014).

const INCREMENT = 0x9e3779b97f4a7c15n;
const FIRST_FACTOR = 0xbf58476d1ce4e5b9n;
const SECOND_FACTOR = 0x94d049bb133111ebn;

/** The seed of an engine's request number `ordinal` (from 0), as an unsigned 64-bit number. */
export function deriveSeed(engineSeed: number | bigint, ordinal: number): bigint {
  const state = BigInt.asUintN(64, BigInt(engineSeed) + BigInt(ordinal + 1) * INCREMENT);
  const first = BigInt.asUintN(64, (state ^ (state >> 30n)) * FIRST_FACTOR);
  const second = BigInt.asUintN(64, (first ^ (first >> 27n)) * SECOND_FACTOR);
  return second ^ (second >> 31n);
}
