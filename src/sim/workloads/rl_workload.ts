// RL rollouts: a batch of prompts with 8 to 16 samples each arrives at once; lengths are log-normal with a cap, so
// that a few samples make the tail. When the batch is done the trainer updates the weights, and the next one comes.

import type { RequestDraft } from '../account.js';
import { drawLength, ROLLOUT, scaleLength } from './quantiles.js';
import { drawMaxTokens, familyTokens, type Site, type Workload } from './workload_site.js';

/** Lengths are scaled so that this one, of the tail, is what a sequence may have beside its prompt. */
const REFERENCE_TOKENS = 9000;
const REFILL_PER_MILLE = 300;
/** A batch that was refused as a whole is sent again after so long. */
const REFUSED_STEPS = 25;

export function rlWorkload(site: Site): Workload {
  const { random, time, stepUs, longest, vocabSize, maxNumSeqs } = site;
  const promptsPerBatch = random.between(1, 1 + Math.ceil(maxNumSeqs / 4));
  const systemTokens = random.below(Math.max(1, Math.floor(longest / 8)));
  const gapUs = random.between(0, 20) * stepUs;
  const updates = !random.perMille(200);
  let numPrompts = 0;
  let numBatches = 0;
  let live = 0;
  let isStopped = false;

  function draft(client: number): RequestDraft {
    numPrompts += 1;
    const own = random.between(1, Math.max(1, Math.floor(longest / 4)));
    const system = familyTokens(0, systemTokens, vocabSize);
    const question = familyTokens(1000 + numPrompts, own, vocabSize);
    const prompt = new Int32Array(systemTokens + own);
    prompt.set(system);
    prompt.set(question, systemTokens);
    const room = Math.max(1, longest - prompt.length);
    const cap = Math.max(1, Math.ceil((room * 9) / 10));
    const lengths = Array.from({ length: random.between(8, 16) }, () =>
      Math.min(cap, scaleLength(drawLength(random, ROLLOUT), REFERENCE_TOKENS, room)),
    );
    return { client, promptTokenIds: prompt, lengths, maxTokens: drawMaxTokens(random, cap) };
  }

  function rollout(): void {
    if (isStopped) return;
    numBatches += 1;
    const drafts = Array.from({ length: promptsPerBatch }, (_, i) => draft(3 * numBatches + (i % 3)));
    // All in one command, or one by one: both happen.
    const accounts = random.perMille(500) ? site.send(drafts) : drafts.flatMap((one) => site.send([one]));
    live = accounts.filter(({ numLive }) => numLive > 0).length;
    if (live === 0) time.after(REFUSED_STEPS * stepUs, rollout);
  }

  function later(): void {
    if (isStopped) return;
    if (updates) site.updateWeights(() => time.after(gapUs, rollout));
    else time.after(gapUs + stepUs, rollout);
  }

  function ended(): void {
    live -= 1;
    if (live === 0) later();
    else if (live > 0 && random.perMille(REFILL_PER_MILLE) && !isStopped) {
      // Over-sampling: a finished group is replaced while the others still run.
      live += 1;
      time.after(stepUs, () => {
        if (isStopped) return;
        const wasAccepted = site.send([draft(3 * numBatches)]).some(({ numLive }) => numLive > 0);
        if (!wasAccepted) ended();
      });
    }
  }

  return {
    begin: rollout,
    ended,
    stop(): void {
      isStopped = true;
    },
    isOver: false,
  };
}
