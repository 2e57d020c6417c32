// Finds the first step at which two traces part. They are read side by side: configuration, then event by event, commands by their bytes
// and their place, steps by digest and result. Where they part, both are replayed up to that step, and what differs is named.

import { setImmediate } from 'node:timers/promises';
import { decodeInstruction, type ResolvedCoreConfig } from '../../core/index.js';
import type { StepEvent } from '../read_steps.js';
import { type CommandEvent, type TraceEvent, type TraceProblem, TraceReader } from '../reader.js';
import { damageOfInstruction, damageOfResult } from '../verify_messages.js';
import { type CommandFields, readCommandObject } from './command_object.js';
import { firstDifferentResult, type ResultPart } from './compare_results.js';
import {
  type Difference,
  differenceAt,
  fieldName,
  firstDifferentPart,
  type Id,
  shown,
  shownDigest,
} from './difference.js';
import { firstDifferentInPlans, planPart } from './explain.js';
import { locateStep } from './locate.js';
import { planInWords } from './plan_words.js';
import { configOf } from './replay_core.js';

export interface BisectReport {
  paths: [string, string];
  /** Equal in both, before the difference if there is one. */
  numSteps: number;
  numCommands: number;
  difference: Difference | null;
  /** What differs in the headers and need not matter: core, model, host. */
  notes: string[];
  /** Of each trace, as far as it was read. */
  problems: [TraceProblem | null, TraceProblem | null];
  isInterrupted: boolean;
}

const EVENTS_A_TURN = 256;
const HEADER_FIELDS = [
  'kadenzVersion',
  'coreSha256',
  'model',
  'modelFingerprint',
  'hostFingerprint',
] as const;

/** Throws what TraceReader.open throws. */
export async function bisectTraces(
  paths: readonly [string, string],
  options: { signal?: AbortSignal | undefined; onProgress?: ((numSteps: number) => void) | undefined } = {},
): Promise<BisectReport> {
  const a = await TraceReader.open(paths[0]);
  try {
    const b = await TraceReader.open(paths[1]);
    try {
      return await new Bisection(a, b).go(options);
    } finally {
      b.close();
    }
  } finally {
    a.close();
  }
}

class Bisection {
  readonly #a: TraceReader;
  readonly #b: TraceReader;
  readonly #configs: [ResolvedCoreConfig, ResolvedCoreConfig];
  #numSteps = 0;
  #numCommands = 0;

  constructor(a: TraceReader, b: TraceReader) {
    this.#a = a;
    this.#b = b;
    this.#configs = [configOf(a.path, a.header), configOf(b.path, b.header)];
  }

  async go({
    signal,
    onProgress,
  }: {
    signal?: AbortSignal | undefined;
    onProgress?: ((numSteps: number) => void) | undefined;
  }): Promise<BisectReport> {
    const configuration = this.#compareConfigurations();
    if (configuration !== null) return this.#report(configuration);
    const [eventsA, eventsB] = [this.#a.events(), this.#b.events()];
    for (let numEvents = 1; ; numEvents += 1) {
      const [a, b] = [eventsA.next().value ?? null, eventsB.next().value ?? null];
      if (a === null || b === null || (a.kind === 'end' && b.kind === 'end')) {
        // Without an end it was cut or damaged, which is told as a problem of that trace.
        return this.#report(a === null || b === null ? null : this.#compareEnds(a, b));
      }
      const difference = await this.#compare(a, b, { eventsA, eventsB });
      if (difference !== null) return this.#report(difference);
      if (numEvents % EVENTS_A_TURN !== 0) continue;
      onProgress?.(this.#numSteps);
      await setImmediate();
      if (signal?.aborted === true) return this.#report(null, true);
    }
  }

  #report(difference: Difference | null, isInterrupted = false): BisectReport {
    const notes = HEADER_FIELDS.filter((name) => this.#a.header[name] !== this.#b.header[name]).map(
      (name) => {
        const [a, b] = [this.#a, this.#b].map(({ header }) => header[name] || 'none');
        return `${fieldName([name])}: A has ${a}, B has ${b}`;
      },
    );
    return {
      paths: [this.#a.path, this.#b.path],
      numSteps: this.#numSteps,
      numCommands: this.#numCommands,
      difference,
      notes,
      problems: [this.#a.problem, this.#b.problem],
      isInterrupted,
    };
  }

  #compareConfigurations(): Difference | null {
    const [a, b] = this.#configs;
    const part = firstDifferentPart(a, b);
    if (part === null) return null;
    const others = Object.keys(a).filter(
      (name) =>
        name !== part.path[0] &&
        firstDifferentPart(a[name as keyof typeof a], b[name as keyof typeof b]) !== null,
    );
    const hints = [
      'Cores of different configurations make different plans, so their steps are not compared. Each trace can be replayed by itself.',
    ];
    if (others.length > 0)
      hints.unshift(`Also different: ${others.map((name) => fieldName([name])).join(', ')}.`);
    const field = fieldName(['configuration', ...part.path]);
    return differenceAt(0, field, { left: shown(part.left), right: shown(part.right) }, { hints });
  }

  async #compare(
    a: TraceEvent,
    b: TraceEvent,
    { eventsA, eventsB }: { eventsA: Iterable<TraceEvent>; eventsB: Iterable<TraceEvent> },
  ): Promise<Difference | null> {
    if (a.kind === 'step' && b.kind === 'step') return this.#compareSteps(a, b);
    if (a.kind === 'command' && b.kind === 'command') return this.#compareCommands(a, b);
    if (a.kind === 'command') return this.#elsewhere(a, { of: 'A', other: b, later: eventsB });
    if (b.kind === 'command') return this.#elsewhere(b, { of: 'B', other: a, later: eventsA });
    return this.#compareEnds(a, b);
  }

  async #compareSteps(a: StepEvent, b: StepEvent): Promise<Difference | null> {
    const step = this.#numSteps + 1;
    if (a.digest !== b.digest) return this.#comparePlans(step, a, b);
    const part = Buffer.compare(a.result, b.result) === 0 ? null : differentResult(a, b);
    if (part !== null) {
      const located = await locateStep(this.#a, step);
      const owner = located?.entryOf(part.kind, part.entry) ?? {};
      return differenceAt(step, part.field, { left: part.left, right: part.right }, owner);
    }
    this.#numSteps = step;
    return null;
  }

  /** Both are replayed up to the step. What a core of another build planned is known by its digest only, unless the trace has plans. */
  async #comparePlans(step: number, a: StepEvent, b: StepEvent): Promise<Difference> {
    const [left, right] = [shownDigest(a.digest), shownDigest(b.digest)];
    const sides = [
      { name: 'A', event: a, located: await locateStep(this.#a, step) },
      { name: 'B', event: b, located: await locateStep(this.#b, step) },
    ] as const;
    const hints = sides.map(({ name, event, located }) => {
      if (located === null) return `This build's core does not come to step ${step} of ${name}.`;
      if (located.digest === event.digest) return `${name} plans ${planInWords(located)}.`;
      return `What ${name} planned is another core's work: this build's core plans ${planInWords(located)}.`;
    });
    const plans = sides.map(({ event, located }) => {
      if (located?.digest === event.digest) return located.instruction;
      if (event.plan === null || damageOfInstruction(event.plan) !== null) return null;
      return decodeInstruction(event.plan);
    });
    const digests = differenceAt(step, 'digest', { left, right }, { hints });
    const located = sides[0].located ?? sides[1].located;
    const [planA = null, planB = null] = plans;
    if (planA === null || planB === null || located === null) return digests;
    const part = firstDifferentInPlans(planA, planB);
    return part === null ? digests : { ...digests, ...planPart(part, located) };
  }

  async #compareCommands(a: CommandEvent, b: CommandEvent): Promise<Difference | null> {
    const number = this.#numCommands + 1;
    const step = this.#numSteps;
    if (Buffer.compare(a.command, b.command) === 0) {
      this.#numCommands = number;
      return null;
    }
    const hints = ['The traces are of different commands from here on.'];
    const [left, right] = [
      await readCommandObject(a.command, this.#configs[0]),
      await readCommandObject(b.command, this.#configs[1]),
    ];
    const part = left === null || right === null ? null : firstDifferentPart(left, right);
    if (part === null) {
      const sides = { left: nameOf(left, number), right: nameOf(right, number) };
      return differenceAt(step, `command ${number}`, sides, { hints });
    }
    const [column, index] = part.path;
    const request = column === 'requests' && typeof index === 'number' ? requestIdOf(left, index) : null;
    if (part.path[0] !== 'type') hints.unshift(`It is the command ${nameOf(left, number)}.`);
    const sides = { left: shown(part.left), right: shown(part.right) };
    return differenceAt(step, fieldName([`command ${number}`, ...part.path]), sides, { hints, request });
  }

  /** A command that the other trace does not have here: later, or not at all. */
  async #elsewhere(
    event: CommandEvent,
    { of, other, later }: { of: 'A' | 'B'; other: TraceEvent; later: Iterable<TraceEvent> },
  ): Promise<Difference> {
    const number = this.#numCommands + 1;
    const name = nameOf(await readCommandObject(event.command, this.#configs[0]), number);
    const sidesOf = (own: string, others: string) =>
      of === 'A' ? { left: own, right: others } : { left: others, right: own };
    const next = other.kind === 'end' ? null : nextCommand(later);
    if (next !== null && Buffer.compare(next.command, event.command) === 0) {
      const sides = sidesOf(`${event.afterStep}`, `${next.afterStep}`);
      const hints = [
        `The same command (${name}) was applied after another step: the runs were given it at other moments.`,
      ];
      return differenceAt(this.#numSteps, `command ${number}.after_step`, sides, { hints });
    }
    const others = other.kind === 'end' ? 'the end of the run' : `step ${this.#numSteps + 1}`;
    const hints = ['The traces are of different commands from here on.'];
    return differenceAt(this.#numSteps, `command ${number}`, sidesOf(name, others), { hints });
  }

  /** One of them goes on, or the digests at the end differ. */
  #compareEnds(a: TraceEvent, b: TraceEvent): Difference | null {
    const step = this.#numSteps;
    if (a.kind === 'end' && b.kind === 'end') {
      if (a.digest === b.digest) return null;
      return differenceAt(step, 'end.digest', { left: shownDigest(a.digest), right: shownDigest(b.digest) });
    }
    const [left, right] = [a, b].map((event) => {
      return event.kind === 'end' ? `ends after step ${step}` : `goes on with step ${step + 1}`;
    }) as [string, string];
    return differenceAt(step, 'end', { left, right });
  }
}

function differentResult(a: StepEvent, b: StepEvent): ResultPart | null {
  const damages = [a, b].map(({ result }) => damageOfResult(result));
  if (damages[0] === null && damages[1] === null) return firstDifferentResult(a.result, b.result);
  const [left, right] = damages.map((damage) => (damage === null ? 'a result' : `no result: ${damage}`));
  return { kind: 'step', entry: 0, field: 'result', left: left!, right: right! };
}

function nextCommand(events: Iterable<TraceEvent>): CommandEvent | null {
  for (const event of events) if (event.kind === 'command') return event;
  return null;
}

function nameOf(command: CommandFields | null, number: number): string {
  return command === null
    ? `number ${number}, which is malformed`
    : `${command.type} with the id ${command.id}`;
}

function requestIdOf(command: CommandFields | null, index: number): Id | null {
  const requests = command?.requests as { id: string }[] | undefined;
  const id = requests?.[index]?.id;
  if (id === undefined) return null;
  return Number.isSafeInteger(Number(id)) ? Number(id) : BigInt(id);
}
