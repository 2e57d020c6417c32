// What a replay found, for people and for machines.

import {
  type BisectReport,
  type Difference,
  type ReplayOutcome,
  type ReplayReport,
  snakeCase,
} from '../trace/index.js';

type Sides = readonly [string, string];
const REPLAY_SIDES: Sides = ['recorded', 'replayed'];
const BISECT_SIDES: Sides = ['A', 'B'];

/** A few lines: the verdict first. */
export function outcomeInWords(report: ReplayReport): string {
  const { path, difference } = report;
  if (difference === null) return outcomeInOneLine(report);
  const first = `${path}: differs at step ${difference.step}, after ${extent(report)} that are equal`;
  return [first, ...differenceLines(difference, REPLAY_SIDES)].join('\n');
}

export function outcomeInOneLine(outcome: ReplayOutcome): string {
  if ('code' in outcome) return `${outcome.path}: ${outcome.message} (${outcome.code})`;
  const { path, difference, problem, ended } = outcome;
  if (difference !== null) {
    const { step, field, left, right } = difference;
    const where = [whose(difference), field].filter((text) => text !== '').join(', ');
    return `${path}: differs at step ${step}: ${where}: recorded ${left}, replayed ${right}`;
  }
  if (ended === 'corrupt')
    return `${path}: damaged after ${extent(outcome)} that are equal: ${problem!.sentence}`;
  if (ended === 'interrupted') return `${path}: interrupted after ${extent(outcome)} that are equal`;
  const where = { until: ', up to where it was to stop', cut: ', as far as the trace goes', end: '' }[
    ended as 'until' | 'cut' | 'end'
  ];
  return `${path}: equal: ${extent(outcome)}${where} (${howCompared(outcome)})`;
}

function extent({ numSteps, numCommands, numTokens }: ReplayReport): string {
  return `${count(numSteps, 'step')}, ${count(numCommands, 'command')}, ${count(numTokens, 'token')}`;
}

function howCompared({ mode, comparedPlansBy }: ReplayReport): string {
  const plans = comparedPlansBy === 'bytes' ? 'plans byte for byte' : 'plans by their digests';
  return mode === 'plans' ? plans : `${plans}, tokens and log-probs bit for bit`;
}

function differenceLines(difference: Difference, [left, right]: Sides): string[] {
  const owner = whose(difference);
  const rows = [
    ['field', difference.field],
    [left, difference.left],
    [right, difference.right],
  ] as const;
  return [
    ...(owner === '' ? [] : [`  ${owner}`]),
    ...rows.map(([name, value]) => `  ${name.padEnd(10)}${value}`),
    ...difference.hints.map((hint) => `  ${hint}`),
  ];
}

function whose({ request, sample, position }: Difference): string {
  const parts = [
    request === null ? '' : `request ${request}`,
    sample === null ? '' : `sample ${sample}`,
    position === null ? '' : `position ${position}`,
  ];
  return parts.filter((part) => part !== '').join(', ');
}

/** What standard error has to say beside the verdict. */
export function warningsOf(outcome: ReplayOutcome): string[] {
  if ('code' in outcome) return [];
  const { path, ended, problem, numSteps, difference } = outcome;
  const { recorded, replayed } = outcome.coreSha256;
  const warnings: string[] = [];
  if (recorded !== replayed) {
    const finding =
      difference === null
        ? 'Its plans were compared all the same, and are equal as far as it was replayed.'
        : "The difference may be the core's change and not the run's. What --until and kadenz trace show tell of it is read by this core.";
    warnings.push(
      `${path} was recorded by another core (${recorded.slice(0, 16)}...) than this build's (${replayed.slice(0, 16)}...). ${finding}`,
    );
  }
  if (ended === 'cut')
    warnings.push(`${path}: ${problem!.sentence} It was replayed up to there: ${count(numSteps, 'step')}.`);
  return warnings;
}

export function outcomeAsJson(outcome: ReplayOutcome): Record<string, unknown> {
  if ('code' in outcome)
    return { trace: outcome.path, equal: false, error: { code: outcome.code, message: outcome.message } };
  const { path, difference, ended, problem, state } = outcome;
  return {
    trace: path,
    mode: outcome.mode,
    equal: difference === null && ended !== 'corrupt',
    plans_compared_by: outcome.comparedPlansBy,
    steps: outcome.numSteps,
    commands: outcome.numCommands,
    tokens: outcome.numTokens,
    ended,
    problem,
    difference: difference === null ? null : differenceAsJson(difference, ['recorded', 'replayed']),
    core_sha256: outcome.coreSha256,
    ...(state === null ? {} : { state: plain(state) }),
  };
}

function differenceAsJson(difference: Difference, [left, right]: Sides): Record<string, unknown> {
  const { left: leftValue, right: rightValue, hints, ...place } = difference;
  return plain({ ...place, [left]: leftValue, [right]: rightValue, hints }) as Record<string, unknown>;
}

/** Names in snake_case; integers beyond what JSON's readers keep exact as strings. */
function plain(value: unknown): unknown {
  if (typeof value === 'bigint') return String(value);
  if (Array.isArray(value)) return value.map(plain);
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([name, inner]) => [snakeCase(name), plain(inner)]));
}

export function bisectionInWords(report: BisectReport): string {
  const { paths, difference, notes, numSteps, numCommands, isInterrupted } = report;
  const equal = `${count(numSteps, 'step')} and ${count(numCommands, 'command')}`;
  const lines = [`A ${paths[0]}`, `B ${paths[1]}`, ...notes.map((note) => `  ${note}`)];
  if (difference === null) {
    const isWhole = report.problems.every((problem) => problem === null) && !isInterrupted;
    return [...lines, `equal: ${equal}${isWhole ? '' : ', as far as both were read'}`].join('\n');
  }
  const isBefore = difference.field.startsWith('configuration');
  const place = isBefore ? 'before the first step: their configurations differ' : placeOf(difference, equal);
  return [...lines, `They part ${place}.`, ...differenceLines(difference, BISECT_SIDES)].join('\n');
}

function placeOf({ step, field }: Difference, equal: string): string {
  const where = /^(command|end)/.test(field) ? `after step ${step}` : `at step ${step}`;
  return `${where}, after ${equal} that are equal`;
}

export function bisectionAsJson(report: BisectReport): Record<string, unknown> {
  const { paths, difference, notes, problems, numSteps, numCommands, isInterrupted } = report;
  return {
    a: paths[0],
    b: paths[1],
    equal: difference === null && problems.every((problem) => problem?.kind !== 'corrupt'),
    steps: numSteps,
    commands: numCommands,
    interrupted: isInterrupted,
    difference: difference === null ? null : differenceAsJson(difference, ['a', 'b']),
    notes,
    problems,
  };
}

function count(number: number, noun: string): string {
  return `${number} ${noun}${number === 1 ? '' : 's'}`;
}
