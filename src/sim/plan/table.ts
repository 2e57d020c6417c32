// A plan as text: what was asked, a table with a column for each question and a row for each case, and what the figures rest on.

import Table from 'cli-table3';
import type { CaseResult, FastModelCheck } from './case.js';
import { formatNumber, formatPercent, formatTime } from './format.js';
import { longestOf } from './lengths.js';
import type { PlanOptions } from './options.js';

export function planText(options: PlanOptions, results: readonly CaseResult[]): string {
  const [base] = results as [CaseResult, ...CaseResult[]];
  const parts = [setting(options, base), rollout(results)];
  if (results.some(({ plan }) => plan.replicas > 1)) parts.push(replicas(results));
  return `${parts.join('\n')}\n${notes(results)
    .map((note) => `${note}\n`)
    .join('')}`;
}

function table(head: string[], rows: string[][]): string {
  const colAligns = head.map((_, column) => (column === 0 ? 'left' : 'right') as 'left' | 'right');
  const made = new Table({ head, colAligns, style: { head: [], border: [], compact: true } });
  made.push(...rows);
  return made.toString();
}

function setting({ dtype, oversample }: PlanOptions, { plan }: CaseResult): string {
  const { device, model, scheduler } = plan;
  const kvTokens = scheduler.numBlocks * scheduler.blockSize;
  const kvGb = formatNumber((kvTokens * model.kvBytesPerToken) / 1e9, 1);
  const extra = oversample === 1 ? '' : `, ${plan.startedN} started (over-sampling ${oversample})`;
  return [
    `device     ${device.name} (${device.source}), at ${formatPercent(device.efficiency, 0)} of its roofline`,
    `model      ${formatNumber(model.numParameters / 1e6)} M parameters, ${formatNumber(model.weightBytes / 1e9, 1)} GB in ${dtype}, ` +
      `${formatNumber(model.kvBytesPerToken / 1024)} KiB of KV a token`,
    `scheduler  ${formatNumber(scheduler.numBlocks)} KV blocks of ${scheduler.blockSize} tokens (${kvGb} GB), ` +
      `${formatNumber(scheduler.maxNumSeqs)} sequences and ${formatNumber(scheduler.maxNumBatchedTokens)} tokens a step at most`,
    `rollout    ${formatNumber(plan.prompts)} prompts x ${plan.n} samples${extra}, replicas: ${formatNumber(plan.replicas)}, ` +
      `placed by ${plan.placement}, seed ${plan.seed}`,
  ].join('\n');
}

function rollout(results: readonly CaseResult[]): string {
  const head = [
    'case',
    'time',
    'vs base',
    'tail',
    'low batch',
    'tokens/s',
    'preempted',
    'prefix hits',
    'KV peak',
    'KV mean',
  ];
  const base = results[0]!;
  const rows = results.map((one) => [
    one.plan.name,
    formatTime(one.timeUs),
    `${(one.timeUs / base.timeUs).toFixed(2)} x`,
    formatPercent(one.tailUs / one.timeUs),
    formatPercent(one.belowHalfShare),
    formatNumber(one.tokensPerSecond),
    `${one.fastModel === null ? '' : '~'}${formatNumber(one.preemptions)}`,
    formatPercent(one.prefixHitShare),
    formatPercent(one.peakKvShare),
    formatPercent(one.meanKvShare),
  ]);
  return table(head, rows);
}

function replicas(results: readonly CaseResult[]): string {
  const head = [
    'case',
    'replicas',
    'p50 done',
    'p90 done',
    'slowest',
    'waiting for it',
    'weights into all',
    'fast model off by',
  ];
  const rows = results.map(({ plan, replicas: spread, broadcast, fastModel }) => [
    plan.name,
    formatNumber(plan.replicas),
    formatTime(spread.p50Us),
    formatTime(spread.p90Us),
    `${formatTime(spread.maxUs)} (no. ${spread.slowest})`,
    formatPercent(spread.idleShare),
    formatTime(broadcast.timeUs),
    errorText(fastModel),
  ]);
  return table(head, rows);
}

function errorText(check: FastModelCheck | null): string {
  if (check === null) return 'not used';
  if (check.largestError === null) return 'not checked';
  return `${errorShare(check.largestError)} at most`;
}

function notes(results: readonly CaseResult[]): string[] {
  const { plan, broadcast } = results[0]!;
  const said = [
    'tail: time after 90% of the samples are done. low batch: device time with under half of the peak of sequences in a step.',
    `weights: ${formatTime(broadcast.timeUs)} into every replica, ${broadcast.way}.`,
  ];
  const longest = plan.sharedPrefixTokens + longestOf(plan.promptLengths) + longestOf(plan.lengths);
  const { maxModelLen } = plan.scheduler;
  if (longest > maxModelLen)
    said.push(`Samples are cut at ${formatNumber(maxModelLen)} tokens, prompt included (--max-model-len).`);
  for (const one of results) if (one.plan.startedN > one.plan.n) said.push(overSamplingNote(one));
  for (const { plan: one, fastModel } of results)
    if (fastModel !== null) said.push(fastNote(one.name, fastModel));
  return said;
}

function overSamplingNote({ plan, tokens, droppedTokens }: CaseResult): string {
  const share = formatPercent(droppedTokens / (tokens + droppedTokens));
  return (
    `Case ${plan.name}: ${plan.startedN} samples of a prompt are started and ${plan.n} kept, the shortest; ${share} of the tokens ` +
    'are thrown away. It changes what is learned from.'
  );
}

function fastNote(name: string, { simulated, factor, meanError, largestError }: FastModelCheck): string {
  const start = `Case ${name}: ${simulated} replicas ran on the real core, the others on the fast model (times x ${factor.toFixed(4)})`;
  if (meanError === null || largestError === null)
    return `${start}, which one replica can calibrate but not check: raise --simulate-replicas.`;
  return `${start}; on those it was not calibrated with it is off by ${errorShare(meanError)} in the mean and ${errorShare(largestError)} at most.`;
}

/** Two digits, and no 0.00% where there is an error. */
function errorShare(error: number): string {
  return error !== 0 && Math.abs(error) < 1e-4 ? 'less than 0.01%' : formatPercent(error, 2);
}
