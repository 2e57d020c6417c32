// What a session has seen, for people and as JSON.

import type { SessionReport } from './session.js';

const US_PER_HOUR = 3_600_000_000;

/** Thousands apart, the same in every locale. */
function count(value: number): string {
  return String(Math.round(value)).replace(/\B(?=(\d{3})+$)/g, ',');
}

/** Tenths, by whole numbers: no machine rounds them otherwise. */
function tenths(value: number, of: number): string {
  const rounded = of === 0 ? 0 : Math.round((10 * value) / of);
  return `${count(Math.floor(rounded / 10))}.${rounded % 10}`;
}

function columns(entries: readonly (readonly [name: string, value: number])[], width: number): string[] {
  const nameWidth = Math.max(...entries.map(([name]) => name.length));
  const valueWidth = Math.max(...entries.map(([, value]) => count(value).length));
  const cells = entries.map(
    ([name, value]) => `${name.padEnd(nameWidth)} ${count(value).padStart(valueWidth)}`,
  );
  const perLine = Math.max(1, Math.floor(width / (nameWidth + valueWidth + 4)));
  return Array.from({ length: Math.ceil(cells.length / perLine) }, (_, line) =>
    `  ${cells.slice(line * perLine, (line + 1) * perLine).join('   ')}`.trimEnd(),
  );
}

export function summaryText({ runs, totals, digest }: SessionReport): string {
  const { endings, faults, steps, tokens, preemptions, promptTokens, cachedPromptTokens } = totals;
  const faultCounts = Object.entries(faults).sort(([a], [b]) => (a < b ? -1 : 1));
  const hours = tenths(totals.virtualUs, US_PER_HOUR);
  const spared = tenths(100 * cachedPromptTokens, promptTokens);
  const lines = [
    `${count(runs)} ${runs === 1 ? 'run' : 'runs'}, ${count(steps)} steps, ${count(tokens)} tokens, ${hours} virtual hours`,
    `digest ${digest}`,
    '',
    `requests ${count(totals.requests)}; samples by their end:`,
    ...columns(Object.entries(endings), 100),
    '',
    `preemptions ${count(preemptions)}; the prefix cache spared ${count(cachedPromptTokens)} of ` +
      `${count(promptTokens)} prompt tokens (${spared}%)`,
  ];
  if (faultCounts.length > 0) lines.push('', 'faults by kind:', ...columns(faultCounts, 100));
  return `${lines.join('\n')}\n`;
}

export function summaryJson({ runs, totals, digest, wasInterrupted }: SessionReport): string {
  return JSON.stringify({
    runs,
    steps: totals.steps,
    tokens: totals.tokens,
    requests: totals.requests,
    samples: totals.endings,
    preemptions: totals.preemptions,
    prompt_tokens: totals.promptTokens,
    cached_prompt_tokens: totals.cachedPromptTokens,
    virtual_us: totals.virtualUs,
    faults: Object.fromEntries(Object.entries(totals.faults).sort(([a], [b]) => (a < b ? -1 : 1))),
    digest,
    interrupted: wasInterrupted,
  });
}
