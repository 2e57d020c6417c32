// Virtual time: microseconds as integers, and what is to happen when. Nothing here waits; whoever has nothing to do
// jumps to what is next.

interface Appointment {
  atUs: number;
  act(): void;
}

export class VirtualTime {
  #nowUs = 0;
  /** By time; those of one moment in the order in which they were made. */
  readonly #agenda: Appointment[] = [];

  get nowUs(): number {
    return this.#nowUs;
  }

  /** When the next appointment is; Infinity: there is none. */
  get nextUs(): number {
    return this.#agenda[0]?.atUs ?? Infinity;
  }

  /** Moves on, never back. */
  advanceTo(atUs: number): void {
    if (!Number.isSafeInteger(atUs)) throw new Error(`virtual time can't move to ${atUs} us`);
    if (atUs > this.#nowUs) this.#nowUs = atUs;
  }

  after(delayUs: number, act: () => void): void {
    const atUs = this.#nowUs + Math.max(0, Math.round(delayUs));
    let place = this.#agenda.length;
    while (place > 0 && this.#agenda[place - 1]!.atUs > atUs) place -= 1;
    this.#agenda.splice(place, 0, { atUs, act });
  }

  /** Keeps every appointment up to `untilUs`, those that they make too. */
  keepUpTo(untilUs: number): void {
    for (let next = this.#agenda[0]; next !== undefined && next.atUs <= untilUs; next = this.#agenda[0]) {
      this.#agenda.shift();
      this.advanceTo(next.atUs);
      next.act();
    }
  }

  cancelAll(): void {
    this.#agenda.length = 0;
  }
}
