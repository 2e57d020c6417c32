// Bursts with idle gaps between them: many long prompts at once with Mooncake's lengths, then nothing until all is
// quiet.

import type { RequestDraft } from '../account.js';
import { drawLength, MOONCAKE, scaleLength } from './quantiles.js';
import { drawMaxTokens, familyTokens, type Site, type Workload } from './workload_site.js';

const REFERENCE_PROMPT_TOKENS = 120_000;
const REFERENCE_OUTPUT_TOKENS = 2000;
/** With much of the last burst still there the next one mostly waits, or most of it would be refused. */
const WAITS_PER_MILLE = 900;

export function burstWorkload(site: Site): Workload {
  const { random, time, stepUs, longest, vocabSize, mostAtOnce } = site;
  const meanGapSteps = random.between(8, 80);
  let numRequests = 0;
  let live = 0;
  let isStopped = false;

  function draft(): RequestDraft {
    numRequests += 1;
    const wanted = scaleLength(drawLength(random, MOONCAKE.prompt), REFERENCE_PROMPT_TOKENS, longest);
    const total = Math.min(longest - 1, wanted + random.below(8));
    const shared = random.below(total);
    const prompt = familyTokens(numRequests + 10, Math.max(1, total), vocabSize);
    // Agents' prompts share long beginnings.
    prompt.set(familyTokens(random.below(4), shared, vocabSize));
    const length = scaleLength(
      drawLength(random, MOONCAKE.output),
      REFERENCE_OUTPUT_TOKENS,
      Math.ceil(longest / 3),
    );
    return {
      client: Math.floor(numRequests / 7),
      promptTokenIds: prompt,
      lengths: [length],
      maxTokens: drawMaxTokens(random, length),
    };
  }

  function burst(): void {
    if (isStopped) return;
    const gapUs = stepUs * random.between(1, 2 * meanGapSteps);
    if (2 * live > mostAtOnce && random.perMille(WAITS_PER_MILLE)) {
      time.after(gapUs, burst);
      return;
    }
    const size = random.between(1, mostAtOnce);
    const drafts = Array.from({ length: size }, draft);
    let accepted = 0;
    for (let first = 0; first < size; first += 3)
      for (const { numLive } of site.send(drafts.slice(first, first + 3))) if (numLive > 0) accepted += 1;
    live += accepted;
    // Who was refused comes back later.
    time.after(accepted === 0 ? 4 * gapUs : gapUs, burst);
  }

  return {
    begin: burst,
    ended(): void {
      live -= 1;
    },
    stop(): void {
      isStopped = true;
    },
    isOver: false,
  };
}
