// Hostile variants of a valid message: every truncation, and seeded flips of bits, bytes and words.

/** SplitMix64, so that a failing case is named by its seed on any machine. */
export class SeededNumbers {
  #state: bigint;

  constructor(seed: number) {
    this.#state = BigInt(seed);
  }

  /** From 0 to below `limit`. */
  below(limit: number): number {
    this.#state = BigInt.asUintN(64, this.#state + 0x9e37_79b9_7f4a_7c15n);
    let mixed = this.#state;
    mixed = BigInt.asUintN(64, (mixed ^ (mixed >> 30n)) * 0xbf58_476d_1ce4_e5b9n);
    mixed = BigInt.asUintN(64, (mixed ^ (mixed >> 27n)) * 0x94d0_49bb_1331_11ebn);
    return Number((mixed ^ (mixed >> 31n)) % BigInt(limit));
  }
}

/** The message cut off before each of its bytes. */
export function truncations(message: Uint8Array): Uint8Array[] {
  return Array.from({ length: message.byteLength }, (_, bytes) => message.slice(0, bytes));
}

/** Words that offsets, counts and sizes like least. */
const NASTY_WORDS = [
  0, 1, 2, 3, 4, 7, 8, 0x7fff, 0xffff, 0x7fff_fffc, 0x7fff_ffff, 0x8000_0000, 0xffff_fffc, 0xffff_ffff,
];

/** One to three changes: a bit, a byte, a 16-bit or a 32-bit word. */
export function flipped(message: Uint8Array, seed: number): Uint8Array {
  const random = new SeededNumbers(seed);
  const hostile = message.slice();
  const view = new DataView(hostile.buffer);
  for (let changes = 1 + random.below(3); changes > 0; changes -= 1) {
    const nasty = NASTY_WORDS[random.below(NASTY_WORDS.length)]!;
    const kind = random.below(4);
    if (kind === 0) hostile[random.below(hostile.length)]! ^= 1 << random.below(8);
    else if (kind === 1) hostile[random.below(hostile.length)] = random.below(256);
    else if (kind === 2) view.setUint16(random.below((hostile.length >> 1) - 1) * 2, nasty, true);
    else view.setUint32(random.below((hostile.length >> 2) - 1) * 4, nasty, true);
  }
  return hostile;
}
