// An oracle in place of a model: the next token is a hash of the request's seed, the sample, the position and every token before it.
// Any mix-up of KV, position, row or request becomes a wrong token, and a wrong token is noticed at once.

/** One 32-bit step of a hash chain. */
export function mix32(hash: number, value: number): number {
  let mixed = Math.imul(hash ^ value, 0x9e3779b1);
  mixed = Math.imul(mixed ^ (mixed >>> 15), 0x85ebca6b);
  return (mixed ^ (mixed >>> 13)) >>> 0;
}

/** What the KV of position 0 is chained to: an adapter changes all KV. */
export function rootChain(adapter: number): number {
  return mix32(0x6b61646e, adapter);
}

/** What stands in the KV cache at a position: a hash of all tokens up to it. */
export function nextChain(before: number, tokenId: number): number {
  return mix32(before, tokenId + 1);
}

export interface Noise {
  seed: number;
  sample: number;
  /** Where the new token will stand. */
  position: number;
}

/** The token that follows a prefix, read off the KV of its last position. */
export function oracleToken(chain: number, { seed, sample, position }: Noise, vocabSize: number): number {
  return mix32(mix32(mix32(mix32(chain, seed), sample), position), 0x746f6b) % vocabSize;
}

export interface OracleRequest {
  promptTokenIds: readonly number[];
  seed: number;
  adapter: number;
  cacheSalt: number;
}

/** The first `count` tokens that the sample must give, whatever ran beside it. */
export function oracleTokens(
  request: OracleRequest,
  sample: number,
  count: number,
  vocabSize: number,
): number[] {
  let chain = rootChain(request.adapter);
  for (const token of request.promptTokenIds) chain = nextChain(chain, token);
  const tokens: number[] = [];
  for (let i = 0; i < count; i++) {
    const position = request.promptTokenIds.length + i;
    const token = oracleToken(chain, { seed: request.seed, sample, position }, vocabSize);
    tokens.push(token);
    chain = nextChain(chain, token);
  }
  return tokens;
}
