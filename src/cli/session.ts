// One run of a command over input lines: output opened, engine created, lines answered in order, everything closed again, whatever happens.
// The first interrupt stops reading and aborts what runs; what has finished is written. The second one ends the process at once.

import type { Logger } from 'pino';
import { Engine, type EngineOptions, KadenzError } from '../index.js';
import { countInputLines, type InputLine, readInputLines } from './input_lines.js';
import { watchInterrupts } from './interrupts.js';
import { openOutput } from './output_file.js';
import { createLogger, type LogLevel, Progress } from './progress.js';
import { errorLine } from './request_line.js';
import { runLines } from './run_lines.js';
import { StartView } from './start_view.js';

export interface SessionOptions {
  engineOptions: EngineOptions;
  /** A path, '-' for standard input, or lines given otherwise. */
  input: string | InputLine[];
  output: string | undefined;
  logLevel: LogLevel | undefined;
  /** What the lines are, for the bar. */
  noun: string;
  answerer(engine: Engine): Answerer;
}

/** Answers one line that has been parsed; null when an interrupt cut it short. A KadenzError becomes the line's answer. */
export type Answerer = (
  content: Record<string, unknown>,
  line: number,
) => Promise<Record<string, unknown> | null>;

/** Lines read ahead of the first unfinished one, beside those that the scheduler holds. */
const WINDOW_LINES = 4096;

/** The exit code: 0, 1 when a line failed, 130 or 143 when interrupted. Throws a KadenzError when the run itself failed. */
export async function runSession(options: SessionOptions): Promise<number> {
  const stop = new AbortController();
  const interrupts = watchInterrupts(stop, 'writing what is finished');
  const output = await openOutput(options.output);
  let engine: Engine | null = null;
  try {
    const { input } = options;
    const total = typeof input === 'string' ? await countIfShown(input, stop.signal) : input.length;
    const logger = createLogger(options.logLevel);
    engine = await startEngine(options.engineOptions, logger);
    stop.signal.addEventListener('abort', () => engine!.abort('all'));
    const lines = typeof input === 'string' ? readInputLines(input, stop.signal) : givenLines(input);
    const progress = new Progress(engine, logger, { total, noun: options.noun });
    const failures = { numLines: 0 };
    try {
      await runLines({
        lines,
        answer: answerLines(options.answerer(engine), { progress, failures, stop }),
        output,
        window: WINDOW_LINES,
        stopped: stop.signal,
        onFailure: () => stop.abort(),
      });
    } finally {
      await progress.stop();
    }
    await output.close();
    return interrupts.exitCode() ?? (failures.numLines > 0 ? 1 : 0);
  } finally {
    await engine?.close();
    interrupts.unwatch();
  }
}

async function startEngine(options: EngineOptions, logger: Logger): Promise<Engine> {
  const view = new StartView(logger);
  try {
    return await Engine.create({ ...options, logger, onProgress: (progress) => view.show(progress) });
  } finally {
    view.end();
  }
}

function answerLines(
  answer: Answerer,
  { progress, failures, stop }: { progress: Progress; failures: { numLines: number }; stop: AbortController },
): (line: InputLine) => Promise<Record<string, unknown> | null> {
  return async ({ number, content }) => {
    try {
      if (content instanceof KadenzError) throw content;
      const result = await answer(content, number);
      if (result !== null && hasFailedSample(result)) failures.numLines += 1;
      if (result !== null) progress.advance();
      return result;
    } catch (error) {
      if (!(error instanceof KadenzError)) throw error;
      failures.numLines += 1;
      progress.advance();
      // With the worker gone no line can succeed: those that were begun say so, the rest is not read.
      if (error.code === 'worker_died') stop.abort();
      return errorLine(error, { line: number, content });
    }
  };
}

function hasFailedSample({ samples }: Record<string, unknown>): boolean {
  return Array.isArray(samples) && samples.some((sample) => sample.error !== undefined);
}

async function* givenLines(lines: InputLine[]): AsyncGenerator<InputLine> {
  yield* lines;
}

async function countIfShown(path: string, signal: AbortSignal): Promise<number | null> {
  return process.stderr.isTTY ? countInputLines(path, signal) : null;
}
