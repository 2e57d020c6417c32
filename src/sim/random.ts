// Where everything random in a simulation comes from: the run's seed, and nothing else.
//
// A run has a stream of its own for each of its parts, so that drawing one more fault does not move every arrival
// behind it. Draws are whole numbers from 32 random bits, by + * and floor on doubles: the same on every machine.

import { xoroshiro128plus } from 'pure-rand/generator/xoroshiro128plus';

const INCREMENT = 0x9e3779b97f4a7c15n;
const FIRST_FACTOR = 0xbf58476d1ce4e5b9n;
const SECOND_FACTOR = 0x94d049bb133111ebn;

/** SplitMix64's output function: a bijection on 64 bits. */
function scramble(state: bigint): bigint {
  const first = BigInt.asUintN(64, (state ^ (state >> 30n)) * FIRST_FACTOR);
  const second = BigInt.asUintN(64, (first ^ (first >> 27n)) * SECOND_FACTOR);
  return second ^ (second >> 31n);
}

/**
 * The seed of run number `index` of a session. The first run's is the session's own, so that a printed seed
 * reproduces its run alone.
 */
export function runSeed(sessionSeed: bigint, index: number): bigint {
  if (index === 0) return BigInt.asUintN(64, sessionSeed);
  return scramble(BigInt.asUintN(64, sessionSeed + BigInt(index) * INCREMENT));
}

/** The parts of a run that draw; each has a stream of its own. */
export enum Stream {
  config = 1,
  workload = 2,
  requests = 3,
  faultKinds = 4,
  faults = 5,
  results = 6,
  trace = 7,
}

export class Random {
  readonly #generator;

  constructor(seed: bigint, stream: Stream) {
    const mixed = scramble(BigInt.asUintN(64, seed + BigInt(stream) * FIRST_FACTOR));
    this.#generator = xoroshiro128plus(Number(BigInt.asIntN(32, mixed)));
  }

  /** 32 bits. */
  bits(): number {
    return this.#generator.next() >>> 0;
  }

  /** From 0 to `count` - 1; `count` up to 2^21, beyond which the product would not be exact. */
  below(count: number): number {
    return Math.floor((this.bits() * count) / 2 ** 32);
  }

  /** From `least` to `most`, both included. */
  between(least: number, most: number): number {
    return least + this.below(most - least + 1);
  }

  /** True in so many of a thousand draws. */
  perMille(share: number): boolean {
    return this.below(1000) < share;
  }

  pick<T>(values: readonly T[]): T {
    return values[this.below(values.length)]!;
  }

  /** A share of one in steps of 2^-16, for quantiles. */
  share(): number {
    return (this.bits() >>> 16) / 65_536;
  }
}
