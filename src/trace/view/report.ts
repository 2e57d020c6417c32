// `kadenz trace report --html`: the run as one page that holds all it needs, script, style and data, and asks the network for nothing. Its
// own content policy forbids it to. What comes from the trace is escaped: a trace may come from anywhere.

import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { basename } from 'node:path';
import type { History } from '../history/history.js';
import { drawReport } from './report_client.js';
import { reportData } from './report_data.js';
import { reportOptions } from './report_options.js';
import { longestRequests } from './report_requests.js';
import { REPORT_STYLE } from './report_style.js';
import { endsText } from './show_summary.js';
import { runSpan, type Summary, summaryOf } from './summary.js';
import { counted, date, grouped, percent, time } from './text.js';

const POLICY =
  "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'";

const FIGURES = [
  [
    'timeline',
    'Requests',
    'One line per sample: when it waited, what it computed, when it was preempted. Lines are named request.sample; dashed ones are commands.',
  ],
  ['running waiting', 'Sequences', 'How many run in each step, and how many wait for a place or for blocks.'],
  [
    'decode_rows prefill_rows',
    'Batch composition',
    'Token positions computed in each step: one for each sequence that decodes; of a prompt, as many as the token budget allows.',
  ],
  [
    'blocks',
    'KV blocks',
    'Held by sequences; cached: held by none, kept for prompts that begin alike; free: empty.',
  ],
  [
    'throughput',
    'Throughput',
    'Tokens sampled per second, and the share of samples that have finished: its flat end is the tail.',
  ],
] as const;

export async function reportPage(history: History): Promise<string> {
  const summary = summaryOf(history);
  const { firstUs, lastUs } = runSpan(history);
  // An empty run has an axis too.
  const data = reportData(history, { startUs: firstUs, endUs: Math.max(firstUs + 1, lastUs) });
  const name = basename(history.path);
  return [
    '<!doctype html>',
    '<html lang="en">',
    '<head>',
    '<meta charset="utf-8">',
    `<meta http-equiv="Content-Security-Policy" content="${POLICY}">`,
    '<meta name="viewport" content="width=device-width, initial-scale=1">',
    '<meta name="generator" content="Kadenz">',
    `<title>${escaped(name)} · Kadenz</title>`,
    `<style>${REPORT_STYLE}</style>`,
    '</head>',
    '<body>',
    '<main>',
    headHtml(name, summary),
    factsHtml(summary),
    barHtml(),
    ...FIGURES.map(([id, title, caption]) => figureHtml(id, { title, caption })),
    longestRequests(history),
    notesHtml(data.notes),
    '</main>',
    '<noscript><main>The charts of this page need JavaScript.</main></noscript>',
    `<script type="application/json" id="data">${jsonHtml(data)}</script>`,
    `<script>${scriptHtml(await echartsText())}</script>`,
    `<script>${scriptHtml(callText())}</script>`,
    '</body>',
    '</html>',
    '',
  ].join('\n');
}

async function echartsText(): Promise<string> {
  const require = createRequire(import.meta.url);
  return readFile(require.resolve('echarts/dist/echarts.min.js'), 'utf8');
}

/** The two functions that draw, as text, and their call. */
function callText(): string {
  return `(${drawReport})(JSON.parse(document.getElementById('data').textContent), window, ${reportOptions});`;
}

function escaped(text: string): string {
  return text.replace(
    /[&<>"']/g,
    (letter) => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' })[letter]!,
  );
}

/** JSON that nothing in it can end the element of. */
function jsonHtml(value: unknown): string {
  return JSON.stringify(value).replaceAll('<', '\\u003c');
}

/** The text of a script, where `</script` may stand in strings and patterns only. */
function scriptHtml(text: string): string {
  return text.replaceAll(/<\/(script)/gi, '<\\/$1').replaceAll('<!--', '<\\!--');
}

function headHtml(name: string, summary: Summary): string {
  const parts = [`Recorded ${date(summary.createdUnixMs)} by Kadenz ${escaped(summary.kadenzVersion)}`];
  if (summary.model !== '') parts.push(`model <code>${escaped(summary.model)}</code>`);
  parts.push(summary.host === '' ? 'no host: a simulation' : `host <code>${escaped(summary.host)}</code>`);
  parts.push(`core <code>${summary.coreSha256.slice(0, 12)}</code>`);
  const warning =
    summary.endingSentence === null ? '' : `<p class="warning">${escaped(summary.endingSentence)}</p>`;
  return `<header><h1>${escaped(name)}</h1><p class="about">${parts.join(' · ')}</p>${warning}</header>`;
}

function factsHtml(summary: Summary): string {
  const rate = summary.tokensPerSecond;
  const facts: [term: string, value: string, note: string][] = [
    [
      'Samples',
      grouped(summary.samples),
      `${counted(summary.requests, 'request')}: ${endsText(summary.ends)}`,
    ],
    [
      'Tokens generated',
      grouped(summary.generatedTokens),
      `${grouped(summary.promptTokens)} tokens of prompts`,
    ],
    [
      'Throughput',
      rate === null ? 'none' : `${grouped(Math.round(rate))} tok/s`,
      `${time(summary.wallUs)} wall time`,
    ],
    [
      'Batch size',
      summary.meanSequences === null ? 'none' : summary.meanSequences.toFixed(1),
      `sequences on average, peak ${grouped(summary.peakSequences)}; ${counted(summary.steps, 'step')}`,
    ],
    [
      'Tail',
      percent(summary.tailAfter90Share),
      `of the time after 90 % of the samples; ${percent(summary.belowHalfPeakShare)} below half of the peak batch`,
    ],
    [
      'Prefix cache',
      percent(summary.prefixHitShare),
      `${grouped(summary.cachedPromptTokens)} of ${grouped(summary.promptTokens)} prompt tokens were not computed`,
    ],
    ['Preemptions', grouped(summary.preemptions), `${counted(summary.recomputedRows, 'row')} computed again`],
    [
      'KV blocks, peak',
      percent(summary.numBlocks === 0 ? null : summary.peakHeldBlocks / summary.numBlocks),
      `${grouped(summary.peakHeldBlocks)} of ${grouped(summary.numBlocks)} held`,
    ],
  ];
  const html = facts.map(
    ([term, value, note]) =>
      `<div><dt>${term}</dt><dd class="value">${escaped(value)}</dd><dd class="note">${escaped(note)}</dd></div>`,
  );
  return `<dl class="facts">${html.join('')}</dl>`;
}

function barHtml(): string {
  return (
    '<div class="bar"><span>All charts share one time axis: <kbd>Ctrl</kbd> + wheel or pinch zooms, dragging moves; in the timeline ' +
    '<kbd>Shift</kbd> + wheel zooms the lines.</span><button type="button" id="reset">Show all</button></div>'
  );
}

/** @param ids of its charts, with blanks between them */
function figureHtml(ids: string, { title, caption }: { title: string; caption: string }): string {
  const parts = ids.split(' ');
  const charts = parts.map(
    (id) =>
      `<div class="chart${parts.length > 1 ? ' half' : ''}" id="${id}" role="img" aria-label="${title}: ${caption}"></div>`,
  );
  return `<figure><figcaption><h2>${title}</h2><p>${caption}</p></figcaption>${charts.join('')}</figure>`;
}

function notesHtml(notes: readonly string[]): string {
  if (notes.length === 0)
    return '<footer>Everything in the trace is drawn; nothing was thinned out.</footer>';
  return `<footer><ul>${notes.map((note) => `<li>${escaped(note)}</li>`).join('')}</ul></footer>`;
}
