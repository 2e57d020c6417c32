// A curve over virtual time with a bounded number of points: when it is full every other point is dropped and half as many are taken
// from then on. Which points stay depends on the steps alone.

/** One row at the end of a step. */
export interface SeriesPoint {
  timeUs: number;
  /** Sequences computed in the step. */
  batch: number;
  /** Share of the KV blocks that sequences hold. */
  kvShare: number;
  /** Samples that are done. */
  finished: number;
}

const MAX_POINTS = 1024;

export class PlanSeries {
  readonly #points: SeriesPoint[] = [];
  #stride = 1;
  #untilNext = 1;

  /** Whether the step at hand is one of those that are kept; to be asked once a step. */
  wantsNext(): boolean {
    this.#untilNext -= 1;
    if (this.#untilNext > 0) return false;
    this.#untilNext = this.#stride;
    return true;
  }

  add(point: SeriesPoint): void {
    this.#points.push(point);
    if (this.#points.length < MAX_POINTS) return;
    const kept = this.#points.filter((_, index) => index % 2 === 1);
    this.#points.splice(0, this.#points.length, ...kept);
    this.#stride *= 2;
  }

  get points(): readonly SeriesPoint[] {
    return this.#points;
  }
}
