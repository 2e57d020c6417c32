// How far a host is with its start. A host reports as often as it likes, from within its constructor; whoever listens elsewhere gets
// reports that are thinned to what a bar can show.

/** `stage` is 'weights' (done and total in bytes) or 'graphs' (in CUDA graphs). */
export interface StartProgress {
  stage: string;
  done: number;
  total: number;
}

/** What a host calls while it starts. */
export type ReportProgress = (stage: string, done: number, total: number) => void;

/** Passes on a stage's first report, its last, and one for each hundredth between. */
export function thinProgress(listener: (progress: StartProgress) => void): ReportProgress {
  let lastStage: string | null = null;
  let lastHundredth = -1;
  return (stage, done, total) => {
    const hundredth = total > 0 ? Math.floor((100 * done) / total) : 100;
    if (stage === lastStage && hundredth === lastHundredth) return;
    lastStage = stage;
    lastHundredth = hundredth;
    listener({ stage, done, total });
  };
}
