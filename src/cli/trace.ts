// kadenz trace: looks at a recorded run. show: in words; export: for Perfetto; report: as a page. None needs the model or its device.

import { createWriteStream } from 'node:fs';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { type Command, InvalidArgumentError } from 'commander';
import { KadenzError } from '../index.js';
import { type History, readHistory } from '../trace/index.js';
import {
  describeStep,
  perfettoJson,
  plain,
  reportPage,
  requestsOf,
  requestText,
  snakeCased,
  stepText,
  summaryOf,
  summaryText,
} from '../trace/view/index.js';
import { openOutput } from './output_file.js';

interface ShowFlags {
  step?: number;
  request?: string;
  json: boolean;
}

const SHOW_EXAMPLES = `
Examples:
  kadenz trace show run.kdz                  requests, tokens, steps, batch sizes, KV blocks, preemptions, the tail
  kadenz trace show run.kdz --step 120       one plan: who computes what, with which blocks, and what came out
  kadenz trace show run.kdz --request 7      one request's life, step by step
`;

export function addTraceCommand(program: Command, finish: (exitCode: number) => void): void {
  const group = program.command('trace').description('look at a recorded run');
  group
    .command('show')
    .description('a recorded run in words')
    .argument('<trace>', 'what --record wrote')
    .option('--step <n>', 'one step in full', stepFlag)
    .option('--request <id>', 'the life of one request')
    .option('--json', 'for machines: one object on a line', false)
    .addHelpText('after', SHOW_EXAMPLES)
    .action(async (trace: string, flags: ShowFlags) => finish(await show(trace, flags)));
  group
    .command('export')
    .description('a recorded run in the format of another tool')
    .argument('<trace>', 'what --record wrote')
    .requiredOption('--perfetto <file>', "write trace events here: open them in Perfetto's UI")
    .action(async (trace: string, { perfetto }: { perfetto: string }) => {
      const history = await readHistory(trace);
      await writeFile(perfetto, perfettoJson(history));
      process.stderr.write(
        `Wrote ${perfetto}: open it at ui.perfetto.dev, or in any viewer of trace events.\n`,
      );
      finish(exitCodeOf(history));
    });
  group
    .command('report')
    .description('a recorded run as one page, which needs no network')
    .argument('<trace>', 'what --record wrote')
    .requiredOption('--html <file>', 'write the page here')
    .action(async (trace: string, { html }: { html: string }) => {
      const history = await readHistory(trace);
      await writeFile(html, [await reportPage(history)]);
      process.stderr.write(`Wrote ${html}: open it in a browser.\n`);
      finish(exitCodeOf(history));
    });
}

function stepFlag(text: string): number {
  if (!/^[1-9]\d{0,14}$/.test(text)) throw new InvalidArgumentError('It must be a step number, from 1.');
  return Number(text);
}

async function show(trace: string, { step, request, json }: ShowFlags): Promise<number> {
  if (step !== undefined && request !== undefined) {
    throw new KadenzError(
      'invalid_argument',
      'Give --step or --request, not both: each shows another thing.',
    );
  }
  const history = await readHistory(trace, step === undefined ? {} : { step });
  const texts = textsOf(history, { step, request, json });
  const output = await openOutput(undefined);
  for (const text of texts) await output.writeLine(plain(text).replace(/\n$/, ''));
  await output.close();
  // The summary says itself how the trace ends.
  const isSaid = step === undefined && request === undefined && !json;
  return exitCodeOf(history, { isSaid });
}

function textsOf(
  history: History,
  { step, request, json }: { step: number | undefined; request: string | undefined; json: boolean },
): string[] {
  const line = (value: unknown) => JSON.stringify(snakeCased(value));
  if (step !== undefined) {
    const description = describeStep(history, step);
    return [json ? line(description) : stepText(description)];
  }
  if (request !== undefined) {
    return requestsOf(history, request).map((life) => (json ? line(life) : requestText(history, life)));
  }
  const summary = summaryOf(history);
  return [json ? line(summary) : summaryText(summary)];
}

/** A cut trace is what a killed process leaves behind: worth a word, not a failure. Damage, and plans that part, are. */
function exitCodeOf({ end }: History, { isSaid = false }: { isSaid?: boolean } = {}): number {
  if (end.sentence === null) return 0;
  if (!isSaid) process.stderr.write(`kadenz: ${end.kind === 'cut' ? 'warning: ' : ''}${end.sentence}\n`);
  return end.kind === 'cut' ? 0 : 1;
}

const CHUNK_CHARACTERS = 1 << 16;

async function writeFile(path: string, pieces: Iterable<string>): Promise<void> {
  try {
    await pipeline(Readable.from(chunks(pieces)), createWriteStream(path));
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new KadenzError('output_failed', `Writing to ${JSON.stringify(path)} failed: ${reason}.`, {
      path,
      cause,
    });
  }
}

function* chunks(pieces: Iterable<string>): Generator<string> {
  let chunk = '';
  for (const piece of pieces) {
    chunk += piece;
    if (chunk.length < CHUNK_CHARACTERS) continue;
    yield chunk;
    chunk = '';
  }
  if (chunk !== '') yield chunk;
}
