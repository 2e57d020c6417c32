// Ctrl-C and its like: the first one asks a command to finish what it has begun, the second one ends the process.

const SIGNAL_EXIT_CODES = { SIGINT: 130, SIGTERM: 143 } as const;

export interface Interrupts {
  /** What the process must exit with; null when nobody has interrupted it. */
  exitCode(): number | null;
  unwatch(): void;
}

/** The first signal aborts `stop`, and says on standard error what is still done: `saying`, a sentence's beginning. */
export function watchInterrupts(stop: AbortController, saying: string | null = null): Interrupts {
  let exitCode: number | null = null;
  const unwatch = () => {
    process.off('SIGINT', onSignal);
    process.off('SIGTERM', onSignal);
  };
  const onSignal = (name: NodeJS.Signals) => {
    exitCode = SIGNAL_EXIT_CODES[name as keyof typeof SIGNAL_EXIT_CODES];
    // Without a listener the next signal does what signals do: it ends the process, a step on the device or not.
    unwatch();
    if (saying !== null) process.stderr.write(`\nInterrupted: ${saying}. Once more ends at once.\n`);
    stop.abort();
  };
  process.on('SIGINT', onSignal);
  process.on('SIGTERM', onSignal);
  return { exitCode: () => exitCode, unwatch };
}
