// What a person sees while an engine starts, on standard error: on a terminal a bar for each stage; else, given a logger, a line when a
// stage is done and one each ten seconds before.

import { SingleBar } from 'cli-progress';
import type { Logger } from 'pino';
import type { StartProgress } from '../index.js';

const LOG_INTERVAL_MS = 10_000;

/** Verb, and a number as it is shown; a stage that this version does not know is shown by its name. */
const STAGES: Readonly<Record<string, readonly [label: string, show: (count: number) => string]>> = {
  weights: ['loading weights', (bytes) => `${(bytes / 1e9).toFixed(1)} GB`],
  graphs: ['capturing CUDA graphs', String],
};

export class StartView {
  readonly #logger: Logger | null;
  readonly #isTerminal: boolean;
  #bar: SingleBar | null = null;
  #stage: string | null = null;
  #loggedMs = 0;
  /** What has not been logged yet. */
  #news: { fields: StartProgress; sentence: string } | null = null;

  constructor(logger: Logger | null) {
    this.#logger = logger;
    this.#isTerminal = process.stderr.isTTY === true;
  }

  show({ stage, done, total }: StartProgress): void {
    const [label, show] = STAGES[stage] ?? [stage, String];
    if (stage !== this.#stage) {
      this.end();
      this.#stage = stage;
      this.#loggedMs = performance.now();
      this.#bar = this.#isTerminal ? startBar(label, total) : null;
    }
    const shown = `${show(done)} of ${show(total)}`;
    this.#bar?.update(done, { shown });
    this.#news = { fields: { stage, done, total }, sentence: `${label}: ${shown}` };
    if (performance.now() - this.#loggedMs >= LOG_INTERVAL_MS) this.#log();
  }

  /** The stage at hand is over, and with it perhaps the start, well or not. */
  end(): void {
    this.#bar?.stop();
    this.#bar = null;
    this.#log();
  }

  #log(): void {
    if (this.#news !== null) this.#logger?.info(this.#news.fields, this.#news.sentence);
    this.#news = null;
    this.#loggedMs = performance.now();
  }
}

function startBar(label: string, total: number): SingleBar {
  const bar = new SingleBar({
    format: `{bar} ${label} | {shown}`,
    barCompleteChar: '█',
    barIncompleteChar: '░',
    barsize: 30,
    hideCursor: true,
    clearOnComplete: true,
    stream: process.stderr,
  });
  bar.start(total, 0, { shown: '' });
  return bar;
}
