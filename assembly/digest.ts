// Hashing: of the prefix cache's keys and of plans. Not cryptographic; whatever a hash finds is compared.
// Multiplication by odd 64-bit constants and rotation, as in xxHash's and wyhash's mixers.

const P1: u64 = 0x9e3779b97f4a7c15;
const P2: u64 = 0xd6e8feb86659fd93;

export function mix(hash: u64, value: u64): u64 {
  const product = (rotl<u64>(hash, 29) ^ value) * P1;
  return (product ^ (product >> 32)) * P2;
}

/** Digest of `bytes` bytes (a multiple of 8, zero padded, 8-aligned), chained to `previous`. Four lanes, so that multiplications overlap. */
export function digestOf(previous: u64, at: usize, bytes: u32): u64 {
  let a = previous ^ <u64>bytes;
  let b = rotl<u64>(previous, 17) + P1;
  let c = previous + P2;
  let d = ~previous;
  const end = at + <usize>bytes;
  while (at + 32 <= end) {
    a = rotl<u64>((a ^ load<u64>(at)) * P1, 31);
    b = rotl<u64>((b ^ load<u64>(at, 8)) * P1, 31);
    c = rotl<u64>((c ^ load<u64>(at, 16)) * P1, 31);
    d = rotl<u64>((d ^ load<u64>(at, 24)) * P1, 31);
    at += 32;
  }
  while (at < end) {
    a = rotl<u64>((a ^ load<u64>(at)) * P1, 31);
    at += 8;
  }
  return mix(mix(mix(mix(previous, a), b), c), d);
}
