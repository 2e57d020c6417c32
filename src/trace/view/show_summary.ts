// `kadenz trace show`: a run on one screen.

import type { Bin, Summary } from './summary.js';
import { bar, counted, date, grouped, labelled, percent, range, time } from './text.js';

export function summaryText(summary: Summary): string {
  return [
    ...labelled(headRows(summary)),
    '',
    ...labelled(numberRows(summary)),
    ...histogramLines(
      `Batch size, in sequences (peak ${grouped(summary.peakSequences)}), by share of the time in steps`,
      summary.sequencesHistogram,
    ),
    ...histogramLines(
      `KV blocks held (peak ${grouped(summary.peakHeldBlocks)} of ${grouped(summary.numBlocks)}), by share of the time in steps`,
      summary.heldBlocksHistogram,
    ),
    '',
  ].join('\n');
}

function headRows(summary: Summary): [string, string][] {
  const core = summary.coreSha256.slice(0, 12);
  return [
    ['trace', summary.trace],
    ...(summary.endingSentence === null
      ? []
      : ([[summary.ending === 'cut' ? 'cut' : 'stopped', summary.endingSentence]] as [string, string][])),
    ['recorded', `${date(summary.createdUnixMs)} by Kadenz ${summary.kadenzVersion}`],
    ['core', `${core} (${coreText(summary)})`],
    ['model', summary.model === '' ? 'none' : summary.model],
    ['host', summary.host === '' ? 'none (a simulation)' : summary.host],
  ];
}

function coreText({ sameCore, ending }: Summary): string {
  if (sameCore) return 'this one';
  return ending === 'parted' ? 'this Kadenz has another' : 'this Kadenz has another, which plans the same';
}

export function endsText(ends: Summary['ends']): string {
  return Object.entries(ends)
    .map(([name, count]) => `${grouped(count)} ${name}`)
    .join(', ');
}

function numberRows(summary: Summary): [string, string][] {
  const { busyUs, wallUs, stepsInFlight, meanSequences, tokensPerSecond } = summary;
  const again = summary.recomputedRows > 0 ? `; ${grouped(summary.recomputedRows)} rows computed again` : '';
  const inFlight = stepsInFlight > 0 ? `; ${stepsInFlight} more in flight at the end` : '';
  const ends = endsText(summary.ends);
  return [
    [
      'requests',
      `${grouped(summary.requests)} with ${counted(summary.samples, 'sample')}${ends === '' ? '' : `: ${ends}`}`,
    ],
    [
      'tokens',
      `${grouped(summary.generatedTokens)} generated, ${grouped(summary.computedRows)} rows computed`,
    ],
    [
      'prompts',
      `${counted(summary.promptTokens, 'token')}, ${grouped(summary.cachedPromptTokens)} of them from the prefix cache ` +
        `(${percent(summary.prefixHitShare)})`,
    ],
    [
      'steps',
      `${grouped(summary.steps)} (${grouped(summary.controlSteps)} control)${inFlight}; ` +
        `${meanSequences === null ? 'no' : meanSequences.toFixed(1)} sequences on average`,
    ],
    [
      'time',
      `${time(wallUs)} wall, ${time(busyUs)} in steps; ` +
        `${tokensPerSecond === null ? 'no' : grouped(Math.round(tokensPerSecond))} tokens/s`,
    ],
    ['preempted', `${counted(summary.preemptions, 'time')}${again}`],
    [
      'tail',
      `${percent(summary.tailAfter90Share)} of the time after 90 % of the samples were done; ` +
        `${percent(summary.belowHalfPeakShare)} below half of the peak batch`,
    ],
  ];
}

function histogramLines(title: string, bins: readonly Bin[]): string[] {
  if (bins.length === 0) return [];
  const most = Math.max(...bins.map(({ share }) => share));
  const rows = bins.map(({ from, to, share }): [string, string] => [
    range(from, to),
    `${percent(share).padStart(7)}  ${bar(share, most)}`,
  ]);
  const width = Math.max(...rows.map(([label]) => label.length));
  return [
    '',
    title,
    ...labelled(
      rows.map(([label, text]) => [label.padStart(width), text]),
      '  ',
    ),
  ];
}
