// Lengths by their published quantiles: a straight line from one quantile to the next. Whole numbers, + - * /, the
// same on every machine.

import type { Random } from '../random.js';

/** Share of draws that are at most this long; the last has share 1. */
export type Quantiles = readonly (readonly [share: number, tokens: number])[];

/** Azure's conversation trace of 2023: p50, p90 and p99 as published; the ends are rounded. */
export const AZURE_CHAT_2023 = {
  prompt: [
    [0, 30],
    [0.5, 1020],
    [0.9, 2735],
    [0.99, 4142],
    [1, 7000],
  ],
  output: [
    [0, 5],
    [0.5, 129],
    [0.9, 424],
    [0.99, 601],
    [1, 1000],
  ],
} as const satisfies Record<'prompt' | 'output', Quantiles>;

/** Mooncake's trace. */
export const MOONCAKE = {
  prompt: [
    [0, 500],
    [0.5, 6909],
    [0.9, 27_367],
    [0.99, 85_401],
    [1, 120_000],
  ],
  output: [
    [0, 10],
    [0.5, 350],
    [0.9, 597],
    [0.99, 1120],
    [1, 2000],
  ],
} as const satisfies Record<'prompt' | 'output', Quantiles>;

/**
 * A log-normal with sigma 1 around 1,000 tokens, by its quantiles (1000 x e^z at the normal's z), cut off at 16,000: the tail
 * that rollouts have.
 */
export const ROLLOUT: Quantiles = [
  [0, 50],
  [0.05, 193],
  [0.1, 278],
  [0.25, 509],
  [0.5, 1000],
  [0.75, 1963],
  [0.9, 3602],
  [0.95, 5180],
  [0.99, 10_240],
  [1, 16_000],
];

export function drawLength(random: Random, quantiles: Quantiles): number {
  const share = random.share();
  let [shareBelow, tokensBelow] = quantiles[0]!;
  for (const [shareAbove, tokensAbove] of quantiles) {
    if (share <= shareAbove && shareAbove > shareBelow) {
      const way = (share - shareBelow) / (shareAbove - shareBelow);
      return Math.round(tokensBelow + way * (tokensAbove - tokensBelow));
    }
    [shareBelow, tokensBelow] = [shareAbove, tokensAbove];
  }
  return tokensBelow;
}

/** Scales a length so that `reference` becomes `scaled`; at least 1. */
export function scaleLength(tokens: number, reference: number, scaled: number): number {
  return Math.max(1, Math.round((tokens * scaled) / reference));
}
