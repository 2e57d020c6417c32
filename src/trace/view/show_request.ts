// `kadenz trace show --request ID`: a request's life, step by step; consecutive decode steps are one line.

import { KadenzError } from '../../errors.js';
import type { History } from '../history/history.js';
import type { RequestLife, SampleEnd, SampleLife, Span } from '../history/history_requests.js';
import { counted, grouped, labelled, range, time } from './text.js';

/** All requests that had this id, by arrival: an id may be used again once its request has ended. */
export function requestsOf(history: History, id: string): RequestLife[] {
  const found = history.requests.filter((request) => String(request.id) === id);
  if (found.length > 0) return found;
  const known = history.requests.slice(0, 5).map((request) => String(request.id));
  const more = history.requests.length > known.length ? ', ...' : '';
  const hint =
    known.length === 0 ? 'It holds no request at all.' : `Its requests are ${known.join(', ')}${more}.`;
  throw new KadenzError('invalid_argument', `The trace holds no request ${id}. ${hint}`, { value: id });
}

export function requestText(history: History, request: RequestLife): string {
  const { arrivalUs, firstStep, promptTokens, n } = request;
  const waited =
    firstStep === null || firstStep > history.steps.count
      ? 'It was never computed.'
      : `It waited ${time(history.steps.beginUs(firstStep) - arrivalUs)}, until step ${firstStep}.`;
  const cached =
    request.cachedTokens > 0
      ? ` The prefix cache spared ${counted(request.cachedTokens, 'prompt token')} of its first sample.`
      : '';
  const lines = [
    `Request ${request.id}: ${counted(promptTokens, 'prompt token')}, ${counted(n, 'sample')} of at most ` +
      `${counted(request.maxTokens, 'token')}, temperature ${Number(request.temperature.toPrecision(7))}, seed ${request.seed}, ` +
      `priority ${request.priority}${request.adapter === 0 ? '' : `, adapter ${request.adapter}`}`,
    `Arrived at ${time(arrivalUs)}, after step ${request.arrivedAfterStep}. ${waited}${cached}`,
  ];
  for (const sample of request.samples) lines.push('', ...sampleLines(history, request, sample));
  for (const { first, count, end } of request.neverStarted) {
    const who = count === 1 ? `Sample ${first}` : `Samples ${range(first, first + count - 1)}`;
    lines.push('', `${who} never started: ${endText(end)}`);
  }
  return `${lines.join('\n')}\n`;
}

function sampleLines(history: History, request: RequestLife, sample: SampleLife): string[] {
  const preempted = sample.preemptions > 0 ? `, ${counted(sample.preemptions, 'preemption')}` : '';
  const end = sample.end === null ? 'not ended when the trace ends' : endText(sample.end);
  const rows = sample.spans
    .map((span) => spanRow(history, request, sample, span))
    .filter((row) => row !== null);
  const versions =
    sample.weightVersions.length > 1
      ? [
          `  sampled by ${sample.weightVersions.map(({ version, tokens }) => `version ${version} (${counted(tokens, 'token')})`).join(', ')}`,
        ]
      : [];
  return [
    `Sample ${sample.sample}: ${counted(sample.tokens, 'token')}${preempted}; ${end}`,
    ...labelled(rows, '  '),
    ...versions,
  ];
}

function endText({ reason, stopToken, code, step, timeUs }: SampleEnd): string {
  const why = stopToken !== null ? ` ${stopToken}` : code !== null ? ` ${code}` : '';
  const where = step === null ? 'by a command' : `in step ${step}`;
  return `ended ${where} at ${time(timeUs)}, ${reason}${why}`;
}

function spanRow(
  history: History,
  { promptTokens }: RequestLife,
  sample: SampleLife,
  span: Span,
): [string, string] | null {
  if (span.kind === 'prefill') {
    const cached = span.cachedTokens > 0 ? `, ${grouped(span.cachedTokens)} from the prefix cache` : '';
    const sampled = span.sampled ? `; token ${span.start + span.rows - promptTokens + 1} sampled` : '';
    return [
      `step ${span.step}`,
      `prefill${span.again ? ' again' : ''}, positions ${range(span.start, span.start + span.rows - 1)}${cached}${sampled}`,
    ];
  }
  if (span.kind === 'preempted') {
    const until = span.resumedStep === null ? 'to the end' : `until step ${span.resumedStep}`;
    const waited = span.resumedStep === null ? '' : `, ${time(waitUs(history, span))}`;
    const why =
      span.atUs === null ? `while step ${span.step} was planned` : `by a command at ${time(span.atUs)}`;
    return [`step ${span.step}`, `preempted ${why}; waited ${until}${waited}`];
  }
  return decodeRow(sample, span);
}

/** Steps planned before it was known that the sample had ended give nothing. */
function decodeRow(sample: SampleLife, span: Span & { kind: 'decode' }): [string, string] {
  const planned = span.lastStep - span.firstStep + 1;
  const kept = Math.max(0, Math.min(planned, sample.tokens - span.firstToken + 1));
  const label =
    span.firstStep === span.lastStep ? `step ${span.firstStep}` : `steps ${span.firstStep}-${span.lastStep}`;
  const late = range(span.firstStep + kept, span.lastStep);
  const dropped =
    planned > kept && sample.end !== null ? `; step ${late} was planned before its end was known` : '';
  const tokens =
    kept === 0
      ? ''
      : `, ${kept === 1 ? 'token' : 'tokens'} ${range(span.firstToken, span.firstToken + kept - 1)}`;
  return [label, `${span.fanOut ? 'fan-out, then decode' : 'decode'}${tokens}${dropped}`];
}

function waitUs({ steps, end }: History, span: Span & { kind: 'preempted' }): number {
  const at = (step: number) => (step <= steps.count ? steps.beginUs(step) : end.timeUs);
  return Math.max(0, at(span.resumedStep!) - (span.atUs ?? at(span.step)));
}
