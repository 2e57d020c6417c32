// What a person sees meanwhile, on standard error: a bar on a terminal, and a log line each ten seconds while tokens are made.

import { SingleBar } from 'cli-progress';
import { type Logger, pino } from 'pino';
import type { Engine, EngineStats } from '../index.js';

const BAR_INTERVAL_MS = 500;
const LOG_INTERVAL_MS = 10_000;
const LOG_LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

/** A logger on standard error. Under a bar it only warns, unless told otherwise. */
export function createLogger(level: LogLevel | undefined): Logger {
  const name = level ?? (process.stderr.isTTY ? 'warn' : 'info');
  return pino({ level: name, base: null }, pino.destination({ dest: 2, sync: true }));
}

export { LOG_LEVELS };

export class Progress {
  readonly #engine: Engine;
  readonly #logger: Logger;
  readonly #bar: SingleBar | null;
  readonly #timers: NodeJS.Timeout[];
  readonly #noun: string;
  #numDone = 0;
  readonly #wholeRun = new Meter();
  readonly #sinceDraw = new Meter();
  readonly #sinceLog = new Meter();

  /** @param total input lines, null when unknown; `noun` names them ("prompts") */
  constructor(engine: Engine, logger: Logger, { total, noun }: { total: number | null; noun: string }) {
    this.#engine = engine;
    this.#logger = logger;
    this.#noun = noun;
    this.#bar = process.stderr.isTTY ? startBar(total, noun) : null;
    this.#timers = [setInterval(() => this.#log(), LOG_INTERVAL_MS)];
    if (this.#bar !== null) this.#timers.push(setInterval(() => this.#draw(), BAR_INTERVAL_MS));
  }

  /** One more input line is answered. */
  advance(): void {
    this.#numDone += 1;
    this.#bar?.update(this.#numDone);
  }

  /** Stops drawing, and shows and logs the rates of the whole run. */
  async stop(): Promise<void> {
    for (const timer of this.#timers) clearInterval(timer);
    const stats = await this.#engine.stats().catch(() => null);
    if (stats !== null) {
      const { inputRate, outputRate } = this.#wholeRun.since(stats);
      this.#bar?.update(this.#numDone, { input: Math.round(inputRate), output: Math.round(outputRate) });
      this.#logger.info(
        {
          promptTokens: stats.promptTokens,
          generationTokens: stats.generationTokens,
          inputTokensPerSecond: Math.round(inputRate),
          outputTokensPerSecond: Math.round(outputRate),
          prefixHitRate: hitRate(stats),
          preemptions: stats.numPreemptions,
        },
        `${this.#numDone} ${this.#noun} done`,
      );
    }
    this.#bar?.stop();
  }

  async #draw(): Promise<void> {
    const stats = await this.#engine.stats().catch(() => null);
    if (stats === null) return;
    const { inputRate, outputRate } = this.#sinceDraw.since(stats);
    this.#bar?.update(this.#numDone, { input: Math.round(inputRate), output: Math.round(outputRate) });
  }

  async #log(): Promise<void> {
    const stats = await this.#engine.stats().catch(() => null);
    if (stats === null) return;
    const { inputRate, outputRate, isIdle } = this.#sinceLog.since(stats);
    if (isIdle) return;
    this.#logger.info(
      {
        inputTokensPerSecond: Math.round(inputRate),
        outputTokensPerSecond: Math.round(outputRate),
        running: stats.numRunning,
        waiting: stats.numWaiting + stats.numQueued,
        kvCacheUsage: round(stats.numHeldBlocks / stats.numBlocks),
        prefixHitRate: hitRate(stats),
        preemptions: stats.numPreemptions,
      },
      `${this.#numDone} ${this.#noun} done`,
    );
  }
}

/** Rates between two looks at the counters. */
class Meter {
  #time = performance.now();
  #promptTokens = 0;
  #generationTokens = 0;

  since(stats: EngineStats): { inputRate: number; outputRate: number; isIdle: boolean } {
    const now = performance.now();
    const seconds = Math.max(now - this.#time, 1) / 1000;
    const input = stats.promptTokens - this.#promptTokens;
    const output = stats.generationTokens - this.#generationTokens;
    this.#time = now;
    this.#promptTokens = stats.promptTokens;
    this.#generationTokens = stats.generationTokens;
    return { inputRate: input / seconds, outputRate: output / seconds, isIdle: input === 0 && output === 0 };
  }
}

function startBar(total: number | null, noun: string): SingleBar {
  const bar = new SingleBar({
    format:
      total === null
        ? `{value} ${noun} | in {input} tok/s | out {output} tok/s`
        : `{bar} {value}/{total} ${noun} | in {input} tok/s | out {output} tok/s`,
    barCompleteChar: '█',
    barIncompleteChar: '░',
    barsize: 30,
    hideCursor: true,
    stream: process.stderr,
  });
  bar.start(total ?? 0, 0, { input: 0, output: 0 });
  return bar;
}

function hitRate(stats: EngineStats): number {
  return stats.promptTokens === 0 ? 0 : round(stats.cachedPromptTokens / stats.promptTokens);
}

function round(share: number): number {
  return Math.round(share * 1000) / 1000;
}
