// Reads a JSONL file (or standard input) line by line, without holding more than a line of it. Blank lines are passed over. Whatever is
// wrong with a line is the line's own matter: it comes out as an error with its number, and the next one follows.

import { createReadStream, statSync } from 'node:fs';
import type { Readable } from 'node:stream';
import { KadenzError } from '../errors.js';

export interface InputLine {
  /** From 1. */
  number: number;
  /** The parsed object, or why there is none. */
  content: Record<string, unknown> | KadenzError;
}

const LINE_CHARACTERS_MAX = 64 * 1024 * 1024;

/** The lines of a file; '-' is standard input. Stops early, without an error, when the signal fires. */
export async function* readInputLines(path: string, signal: AbortSignal): AsyncGenerator<InputLine> {
  let number = 0;
  for await (const text of splitLines(openInput(path, signal), path, signal)) {
    number += 1;
    if (text === null)
      yield { number, content: lineError(number, `it is longer than ${LINE_CHARACTERS_MAX} characters`) };
    else if (text.trim() !== '') yield { number, content: parseLine(text, number) };
  }
}

/** How many lines with something on them a file has; null when that can't be known beforehand (a pipe). */
export async function countInputLines(path: string, signal: AbortSignal): Promise<number | null> {
  if (path === '-' || !statSync(path, { throwIfNoEntry: false })?.isFile()) return null;
  let count = 0;
  for await (const text of splitLines(openInput(path, signal), path, signal)) {
    if (text === null || text.trim() !== '') count += 1;
  }
  return count;
}

/** The error for a line, naming it. */
export function lineError(line: number, what: string): KadenzError {
  return new KadenzError('invalid_input_line', `Line ${line} can't be used: ${what}.`, { line });
}

function openInput(path: string, signal: AbortSignal): Readable {
  const stream = path === '-' ? process.stdin : createReadStream(path);
  signal.addEventListener('abort', () => stream.destroy(), { once: true });
  return stream.setEncoding('utf8');
}

/** Lines without their ends; null for one that is too long. */
async function* splitLines(
  stream: Readable,
  path: string,
  signal: AbortSignal,
): AsyncGenerator<string | null> {
  let rest = '';
  let isTooLong = false;
  try {
    for await (const chunk of stream as AsyncIterable<string>) {
      const pieces = chunk.split('\n');
      const last = pieces.pop()!;
      for (const piece of pieces) {
        yield isTooLong ? null : rest + piece;
        rest = '';
        isTooLong = false;
      }
      isTooLong ||= rest.length + last.length > LINE_CHARACTERS_MAX;
      rest = isTooLong ? '' : rest + last;
    }
  } catch (error) {
    if (signal.aborted) return;
    const reason = error instanceof Error ? error.message : String(error);
    throw new KadenzError('input_not_found', `${path} can't be read: ${reason}.`, { path, cause: error });
  }
  if (isTooLong || rest !== '') yield isTooLong ? null : rest;
}

function parseLine(text: string, number: number): Record<string, unknown> | KadenzError {
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value === 'object' && value !== null && !Array.isArray(value))
      return value as Record<string, unknown>;
    return lineError(number, 'it is not a JSON object');
  } catch (error) {
    return lineError(number, error instanceof Error ? error.message : String(error));
  }
}
