import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { countInputLines, readInputLines } from '../../dist/cli/input_lines.js';
import { KadenzError } from '../../dist/index.js';

let directory = '';

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'kadenz-lines-'));
});

afterAll(() => rm(directory, { recursive: true }));

async function read(text: string) {
  const path = join(directory, 'lines.jsonl');
  await writeFile(path, text);
  const { signal } = new AbortController();
  const lines: [number, unknown][] = [];
  for await (const { number, content } of readInputLines(path, signal)) {
    lines.push([number, content instanceof KadenzError ? content.code : content]);
  }
  expect(await countInputLines(path, signal)).toBe(lines.length);
  return lines;
}

describe('input lines', () => {
  it('are numbered as in the file, blank ones passed over, the last with or without its end', async () => {
    const expected = [
      [1, { a: 1 }],
      [4, { b: 2 }],
    ];
    expect(await read('{"a":1}\n\n  \r\n{"b":2}')).toEqual(expected);
    expect(await read('{"a":1}\r\n\n\n{"b":2}\n')).toEqual(expected);
    expect(await read('')).toEqual([]);
  });

  it('keep characters whole that lie on the border of two reads', async () => {
    const text = '🙂é'.repeat(60_000);
    expect(await read(JSON.stringify({ text }))).toEqual([[1, { text }]]);
  });

  it('are refused one by one: what is no JSON object, and what is longer than any request', async () => {
    const long = `{"a":"${'x'.repeat(65 * 1024 * 1024)}"}`;
    expect(await read(`[1]\n${long}\n{"a":1}\nnull\n7`)).toEqual([
      [1, 'invalid_input_line'],
      [2, 'invalid_input_line'],
      [3, { a: 1 }],
      [4, 'invalid_input_line'],
      [5, 'invalid_input_line'],
    ]);
  });

  it('are not there: an error that names the file', async () => {
    const lines = readInputLines(join(directory, 'absent'), new AbortController().signal);
    await expect(lines.next()).rejects.toMatchObject({
      code: 'input_not_found',
      message: expect.stringContaining('absent'),
    });
  });
});
