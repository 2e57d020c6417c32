// What a run has seen, as plain numbers that add up over runs.

import type { CheckedCore } from './checked_core.js';
import type { FaultKind } from './faults/swarm.js';
import type { Ending } from './ledger.js';

export interface RunReport {
  steps: number;
  tokens: number;
  requests: number;
  endings: Record<Ending, number>;
  faults: Partial<Record<FaultKind, number>>;
  preemptions: number;
  promptTokens: number;
  cachedPromptTokens: number;
  virtualUs: number;
  /** Of all instructions, and of what was delivered to whom: equal on every machine. */
  digest: string;
}

export function reportOf(
  core: CheckedCore,
  { faults, nowUs, digest }: { faults: ReadonlyMap<FaultKind, number>; nowUs: number; digest: bigint },
): RunReport {
  const { ledger, books } = core;
  return {
    steps: core.numSteps,
    tokens: ledger.numDelivered,
    requests: ledger.bySeed.size,
    endings: { ...ledger.endings },
    faults: Object.fromEntries(faults),
    preemptions: books.preemptions,
    promptTokens: books.promptTokens,
    cachedPromptTokens: books.cachedPromptTokens,
    virtualUs: nowUs,
    digest: `${digest.toString(16).padStart(16, '0')}-${(ledger.deliveries >>> 0).toString(16).padStart(8, '0')}`,
  };
}
