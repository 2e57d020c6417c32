// The state of a core as tables: its counters, the live requests, and their sequences.

import Table from 'cli-table3';
import type { CoreState } from '../trace/index.js';
import { fieldName } from '../trace/index.js';

export function stateInWords({ step, stats, inventory }: CoreState): string {
  const { digest, ...counters } = stats;
  const summary = tableOf(
    ['counter', 'value'],
    [
      ...Object.entries(counters).map(([name, value]) => [
        fieldName([name]),
        Array.isArray(value) ? value.join(', ') || 'none' : String(value),
      ]),
      ['digest', `0x${digest.toString(16).padStart(16, '0')}`],
    ],
  );
  const requests = tableOf(
    ['request', 'priority', 'prompt tokens', 'samples not started', 'held'],
    inventory.requests.map(({ id, priority, promptTokens, unstarted, held }) => [
      ...[id, priority, promptTokens, unstarted].map(String),
      held ? 'until the pause is over' : '',
    ]),
  );
  const sequences = tableOf(
    ['request', 'sample', 'state', 'slot', 'tokens', 'computed', 'blocks', 'preempted'],
    inventory.sequences.map((sequence) => [
      String(sequence.request),
      String(sequence.sample),
      sequence.state,
      sequence.slot === null ? '' : String(sequence.slot),
      ...[sequence.numTokens, sequence.numComputed, sequence.numBlocks, sequence.preemptions].map(String),
    ]),
  );
  return [
    `State after step ${step}`,
    summary,
    inventory.requests.length === 0 ? 'No request is live.' : `Requests, by arrival\n${requests}`,
    inventory.sequences.length === 0 ? 'No sequence is live.' : `Sequences\n${sequences}`,
  ].join('\n\n');
}

/** Columns set apart by space alone. */
const NO_LINES = Object.fromEntries(
  [
    ...['top', 'top-mid', 'top-left', 'top-right', 'bottom', 'bottom-mid', 'bottom-left', 'bottom-right'],
    ...['left', 'left-mid', 'mid', 'mid-mid', 'right', 'right-mid', 'middle'],
  ].map((name) => [name, '']),
);

function tableOf(head: string[], rows: string[][]): string {
  const table = new Table({ head, chars: NO_LINES, style: { head: [], border: [], compact: true } });
  table.push(...rows);
  return table.toString().replaceAll(/ +$/gm, '');
}
