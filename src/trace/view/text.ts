// How numbers look in texts for people, and the small bars of histograms.

export { counted } from '../history/history_commands.js';

/** 1,234,567 */
export function grouped(value: number): string {
  return value.toLocaleString('en-US', { maximumFractionDigits: 1 });
}

/** A time since the recording began, or a duration, in the unit that suits it. */
export function time(us: number): string {
  if (us < 1000) return `${Math.round(us)} us`;
  if (us < 1_000_000) return `${(us / 1000).toFixed(us < 10_000 ? 2 : 1)} ms`;
  if (us < 120_000_000) return `${(us / 1_000_000).toFixed(us < 10_000_000 ? 3 : 1)} s`;
  const minutes = Math.floor(us / 60_000_000);
  if (minutes < 120) return `${minutes} min ${Math.floor((us % 60_000_000) / 1_000_000)} s`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** When a run was recorded; what is no time of a calendar is said to be none. */
export function date(unixMs: number): string {
  const when = new Date(unixMs);
  return Number.isNaN(when.getTime())
    ? 'at an unknown time'
    : `${when.toISOString().replace('T', ' ').slice(0, 19)} UTC`;
}

/** Text of a trace for a terminal, which it must not command. */
export function plain(text: string): string {
  return text.replace(/[^\P{Cc}\n]/gu, '?');
}

/** Of nothing there is no share. */
export function percent(share: number | null): string {
  if (share === null) return 'n/a';
  const value = share * 100;
  return `${value > 0 && value < 0.05 ? '<0.1' : value.toFixed(1)} %`;
}

/** 3, 5-9, 12 of ascending numbers. */
export function ranges(numbers: readonly number[]): string {
  const parts: string[] = [];
  for (let i = 0; i < numbers.length; ) {
    let end = i;
    while (end + 1 < numbers.length && numbers[end + 1] === numbers[end]! + 1) end += 1;
    parts.push(range(numbers[i]!, numbers[end]!));
    i = end + 1;
  }
  return parts.join(', ');
}

/** `7` or `7-9`. */
export function range(first: number, last: number): string {
  return first === last ? String(first) : `${first}-${last}`;
}

const BAR_WIDTH = 40;
const EIGHTHS = ['', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];

/** What became of a command, by the code of its acknowledgement. */
export function answerText(code: string | null): string {
  if (code === null) return 'not answered when the trace ends';
  return code === 'none' ? 'carried out' : `refused, ${code}`;
}

/** A bar whose longest is `most`. */
export function bar(value: number, most: number): string {
  const eighths = most === 0 ? 0 : Math.round((value / most) * BAR_WIDTH * 8);
  return '█'.repeat(Math.floor(eighths / 8)) + EIGHTHS[eighths % 8]!;
}

/** Left-aligned labels of one width before their texts. */
export function labelled(rows: readonly (readonly [label: string, text: string])[], indent = ''): string[] {
  const width = Math.max(0, ...rows.map(([label]) => label.length));
  return rows.map(([label, text]) => `${indent}${label.padEnd(width)}  ${text}`.trimEnd());
}

/** Keys as the command line writes them: `firstStep` -> `first_step`. Wide numbers become strings. */
export function snakeCased(value: unknown): unknown {
  if (typeof value === 'bigint') return String(value);
  if (Array.isArray(value)) return value.map(snakeCased);
  if (value === null || typeof value !== 'object') return value;
  return Object.fromEntries(
    Object.entries(value).map(([name, entry]) => [
      name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`),
      snakeCased(entry),
    ]),
  );
}
