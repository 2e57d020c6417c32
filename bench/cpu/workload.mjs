// The work that both engines do: 32 prompts of 24 to 87 tokens, 4 samples each, 128 new tokens a sample, temperature 1, no early end.
// Token ids are drawn by a fixed rule, so that no tokenizer takes part.
export const PROMPTS = 32;
export const SAMPLES = 4;
export const NEW_TOKENS = 128;
export const MAX_MODEL_LEN = 256;
export const THREADS = 2;

/** 32 lists of token ids between 100 and 40,099. */
export function promptTokenIds() {
  let state = 0x2545f491;
  const next = () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return state >>> 0;
  };
  return Array.from({ length: PROMPTS }, () =>
    Array.from({ length: 24 + (next() % 64) }, () => 100 + (next() % 40_000)),
  );
}

/** Prints what a run measured, as the last line of standard output. Resident memory is the process's peak, in bytes. */
export function report({ tokens, seconds, detail }) {
  const peakBytes = process.resourceUsage().maxRSS * 1024;
  console.log(JSON.stringify({ tokens, seconds, peakBytes, ...detail }));
}
