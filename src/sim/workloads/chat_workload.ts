// Chat: conversations arrive by a Poisson process with the lengths of Azure's 2023 trace. A turn's prompt is the
// conversation so far, so that the prefix cache has something to find.

import type { Account, RequestDraft } from '../account.js';
import { AZURE_CHAT_2023, drawLength, scaleLength } from './quantiles.js';
import { drawMaxTokens, familyTokens, type Site, type Workload } from './workload_site.js';

const REFERENCE_TOKENS = 5000;
/** A further turn follows in so many of a thousand cases. */
const NEXT_TURN_PER_MILLE = 600;

export function chatWorkload(site: Site): Workload {
  const { random, time, stepUs, longest, vocabSize, maxNumSeqs } = site;
  // From half empty to more than can be served.
  const meanGapUs = Math.ceil((stepUs * random.between(8, 160)) / (2 + maxNumSeqs));
  let numConversations = 0;
  let isStopped = false;

  function ask(client: number, before: readonly number[]): void {
    if (isStopped) return;
    const wanted = scaleLength(drawLength(random, AZURE_CHAT_2023.prompt), REFERENCE_TOKENS, longest);
    const room = longest - 1 - before.length;
    if (room < 1) return;
    const added = familyTokens(client + 1, Math.min(wanted, room), vocabSize);
    const promptTokenIds = Int32Array.from([...before, ...added]);
    const length = scaleLength(drawLength(random, AZURE_CHAT_2023.output), REFERENCE_TOKENS / 4, longest);
    const draft: RequestDraft = {
      client,
      promptTokenIds,
      lengths: [length],
      maxTokens: drawMaxTokens(random, length),
    };
    if (random.perMille(50)) draft.lengths.push(length + 1, length + 2);
    site.send([draft]);
  }

  function arrive(): void {
    if (isStopped) return;
    numConversations += 1;
    // Conversations share one of a few system prompts.
    const system = familyTokens(
      random.below(3) + 1_000_000,
      random.below(Math.max(1, Math.floor(longest / 6))),
      vocabSize,
    );
    ask(numConversations, [...system]);
    time.after(exponentialUs(site, meanGapUs), arrive);
  }

  return {
    begin: arrive,
    ended({ draft, samples }: Account): void {
      const outputs = samples[0]!.outputs;
      if (isStopped || outputs.length === 0 || !random.perMille(NEXT_TURN_PER_MILLE)) return;
      const before = [...draft.promptTokenIds, ...outputs];
      time.after(stepUs * random.between(0, 30), () => ask(draft.client, before));
    },
    stop(): void {
      isStopped = true;
    },
    isOver: false,
  };
}

/**
 * The gap to a Poisson process's next arrival: -ln(u) by u's power of two and a straight line between, which no
 * machine rounds otherwise.
 */
function exponentialUs({ random }: Site, meanUs: number): number {
  let halvings = 0;
  while (halvings < 20 && random.below(2) === 0) halvings += 1;
  const rest = random.share();
  return Math.round(meanUs * Math.LN2 * (halvings + rest));
}
