import { describe, expect, it } from 'vitest';
import { deriveSeed } from '../../dist/engine/seed.js';

describe('seeds', () => {
  it('are the outputs of SplitMix64', () => {
    // The generator's first outputs from state 1234567, as published with its reference implementation.
    const expected = [6457827717110365317n, 3203168211198807973n, 9817491932198370423n, 4593380528125082431n];
    expect([0, 1, 2, 3].map((ordinal) => deriveSeed(1234567, ordinal))).toEqual(expected);
  });

  it('take all 64 bits of the engine seed', () => {
    expect(deriveSeed(2n ** 64n - 1n, 0)).not.toBe(deriveSeed(2n ** 32n - 1n, 0));
  });
});
