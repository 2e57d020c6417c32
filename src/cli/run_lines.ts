// Answers input lines side by side and writes the answers in the order of the lines, each as soon as those before it are written.

import type { InputLine } from './input_lines.js';
import type { OutputFile } from './output_file.js';

export interface RunLinesOptions {
  lines: AsyncIterable<InputLine>;
  /** The output line, or null for none. A rejection ends the run. */
  answer(line: InputLine): Promise<Record<string, unknown> | null>;
  output: OutputFile;
  /** Lines read but not yet written, at most: bounds the memory. */
  window: number;
  /** After it fires no further line is begun. */
  stopped: AbortSignal;
  /** Told once, as soon as the run has failed: what is still running may be given up. */
  onFailure(): void;
}

/** Resolves when all is written; rejects with the first failure, once nothing of this run is going on any more. */
export async function runLines({
  lines,
  answer,
  output,
  window,
  stopped,
  onFailure,
}: RunLinesOptions): Promise<void> {
  let failure: { error: unknown } | null = null;
  let numOpen = 0;
  let wake = () => {};
  let written = Promise.resolve();

  const fail = (error: unknown) => {
    if (failure !== null) return;
    failure = { error };
    onFailure();
  };
  const writeInTurn = async (before: Promise<void>, answered: Promise<Record<string, unknown> | null>) => {
    try {
      const result = await answered;
      await before;
      if (result !== null && failure === null) await output.writeLine(JSON.stringify(result));
    } catch (error) {
      fail(error);
      await before;
    }
    numOpen -= 1;
    wake();
  };

  try {
    for await (const line of lines) {
      if (stopped.aborted || failure !== null) break;
      numOpen += 1;
      written = writeInTurn(written, answer(line));
      while (numOpen >= window) {
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
    }
  } catch (error) {
    fail(error);
  }
  await written;
  if (failure !== null) throw (failure as { error: unknown }).error;
}
