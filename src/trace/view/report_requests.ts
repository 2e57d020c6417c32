// The report's table of the requests that took longest.

import type { History } from '../history/history.js';
import type { RequestLife } from '../history/history_requests.js';
import { grouped, time } from './text.js';

const ROWS = 10;

export function longestRequests(history: History): string {
  const { requests } = history;
  if (requests.length === 0) return '';
  const rows = requests
    .map((request, index) => ({ request, index, tookUs: tookUs(history, request) }))
    .sort((a, b) => b.tookUs - a.tookUs || a.index - b.index)
    .slice(0, ROWS)
    .map((entry) => rowHtml(history, entry));
  const heads = ['Request', 'Prompt tokens', 'Samples', 'Tokens sampled', 'Waited', 'Preemptions', 'Took'];
  const headRow = heads.map((head) => `<th scope="col" class="number">${head}</th>`).join('');
  return (
    `<section class="table"><h2>Longest requests</h2><p>From arrival to the end of the last sample.</p>` +
    `<table><thead><tr>${headRow}</tr></thead><tbody>${rows.join('')}</tbody></table></section>`
  );
}

function tookUs({ end }: History, { arrivalUs, samples, neverStarted, n }: RequestLife): number {
  const ends = [...samples.map((sample) => sample.end), ...neverStarted.map((range) => range.end)];
  const known = samples.length + neverStarted.reduce((sum, { count }) => sum + count, 0);
  const isOver = known === n && ends.every((each) => each !== null);
  const lastUs = isOver ? ends.reduce((most, each) => Math.max(most, each!.timeUs), arrivalUs) : end.timeUs;
  return lastUs - arrivalUs;
}

function rowHtml(
  { steps, end }: History,
  { request, tookUs: took }: { request: RequestLife; tookUs: number },
): string {
  const { firstStep, arrivalUs, samples } = request;
  const startUs = firstStep !== null && firstStep <= steps.count ? steps.beginUs(firstStep) : end.timeUs;
  const sum = (of: (sample: RequestLife['samples'][number]) => number) =>
    samples.reduce((total, sample) => total + of(sample), 0);
  const cells = [
    String(request.id),
    grouped(request.promptTokens),
    grouped(request.n),
    grouped(sum(({ tokens }) => tokens)),
    time(Math.max(0, startUs - arrivalUs)),
    grouped(sum(({ preemptions }) => preemptions)),
    time(took),
  ];
  return `<tr>${cells.map((cell) => `<td class="number">${cell}</td>`).join('')}</tr>`;
}
