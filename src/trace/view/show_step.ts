// `kadenz trace show --step N`: one instruction in words. Who computes what, from which position, with which blocks; who is sampled, and what
// came out.

import type { StepPlanObject } from '../../core/index.js';
import { KadenzError } from '../../errors.js';
import type { History, StepDetail } from '../history/history.js';
import { spacedName } from '../history/history_commands.js';
import { counted, grouped, labelled, range, ranges, time } from './text.js';

type Id = number | bigint;

interface Who {
  request: Id;
  sample: number;
}

export interface StepDescription {
  step: number;
  weightVersion: Id;
  /** stepPlan, or the control instruction's name. */
  type: string;
  plannedUs: number;
  committedUs: number;
  /** none, or why the whole instruction failed. */
  code: string;
  message: string;
  running: number;
  waiting: number;
  freeBlocks: number;
  cachedBlocks: number;
  heldBlocks: number;
  preempted: Who[];
  computes: (Who & {
    slot: number;
    start: number;
    rows: number;
    /** The slot was given to it in this step. */
    opened: boolean;
    prefill: boolean;
    /** The input token is what the step before sampled. */
    gathered: boolean;
    cachedBlocks: number[];
    newBlocks: number[];
  })[];
  /** Samples of a fan-out, which begin with the blocks of another. */
  shares: (Who & { slot: number; with: Who; blocks: number[] })[];
  copies: { source: number; target: number; for: Who | null }[];
  sampled: (Who & {
    slot: number;
    position: number;
    /** Of the sample's output, from 1. */
    token: number;
    tokenId: number | null;
    logprob: number | null;
    code: string;
    /** The sample had ended: the token does not count. */
    dropped: boolean;
  })[];
  scored: number;
  ended: {
    request: Id;
    sample: number;
    count: number;
    reason: string;
    stopToken: number | null;
    code: string;
  }[];
}

export function describeStep(history: History, step: number): StepDescription {
  const { detail, steps } = history;
  if (detail === null) {
    const sentence = history.end.sentence === null ? '' : ` ${history.end.sentence}`;
    throw new KadenzError(
      'invalid_argument',
      `There is no step ${step} to show: the trace has ${counted(steps.count, 'committed step')}.${sentence}`,
      { value: step, limit: steps.count },
    );
  }
  const { instruction, result, output, stats } = detail;
  const row = steps.row(step);
  const base: StepDescription = {
    step,
    weightVersion: instruction.weightVersion,
    type: instruction.type,
    plannedUs: row.plannedUs,
    committedUs: row.committedUs,
    code: result.code,
    message: result.message,
    running: stats.numRunning,
    waiting: stats.numWaiting,
    freeBlocks: stats.numFreeBlocks,
    cachedBlocks: stats.numCachedBlocks,
    heldBlocks: stats.numHeldBlocks,
    preempted: preemptedIn(history, step),
    computes: [],
    shares: [],
    copies: [],
    sampled: [],
    scored: 0,
    ended: output.finishes.map(({ request, sample, count, reason, stopToken, code }) => {
      return { request, sample, count, reason, stopToken, code };
    }),
  };
  return instruction.type === 'stepPlan'
    ? { ...base, ...describePlan(instruction, detail, history.config.blockSize) }
    : base;
}

function preemptedIn({ requests }: History, step: number): Who[] {
  return requests.flatMap(({ id, samples }) =>
    samples
      .filter(({ spans }) =>
        spans.some((span) => span.kind === 'preempted' && span.step === step && span.atUs === null),
      )
      .map(({ sample }) => ({ request: id, sample })),
  );
}

function describePlan(plan: StepPlanObject, { owners, result, output }: StepDetail, blockSize: number) {
  const who = (slot: number): Who => {
    const { request, sample } = owners.get(slot)!;
    return { request, sample };
  };
  const opened = new Set(plan.opens.map(({ slot }) => slot));
  const computing = new Map(plan.sequences.map((sequence) => [sequence.slot, sequence]));
  const entries = (slot: number) => plan.tableChanges.filter((change) => change.slot === slot);
  const sampledSlots = new Set(plan.samples.map(({ slot }) => slot));
  const delivered = new Set(output.tokens.map(({ row }) => row));
  const slotOfRow = (row: number) =>
    plan.sequences.find(({ firstRow, numTokens }) => row >= firstRow && row < firstRow + numTokens)!.slot;
  return {
    computes: plan.sequences.map(({ slot, start, numTokens, tokenIds }) => {
      const isOpened = opened.has(slot);
      const hits = isOpened ? start / blockSize : 0;
      return {
        ...who(slot),
        slot,
        start,
        rows: numTokens,
        opened: isOpened,
        prefill:
          isOpened || numTokens > 1 || !sampledSlots.has(slot) || start < owners.get(slot)!.promptTokens,
        gathered: tokenIds.length === 1 && tokenIds[0]! < 0,
        cachedBlocks: entries(slot).flatMap(({ index, block }) => (index < hits ? [block] : [])),
        newBlocks: entries(slot).flatMap(({ index, block }) => (index < hits ? [] : [block])),
      };
    }),
    shares: plan.samples
      .filter(({ slot }) => !computing.has(slot))
      .map(({ slot, row }) => ({
        ...who(slot),
        slot,
        with: who(slotOfRow(row)),
        blocks: entries(slot).map(({ block }) => block),
      })),
    copies: plan.copies.map(({ source, target }) => {
      const change = plan.tableChanges.find(({ block }) => block === target);
      return { source, target, for: change === undefined ? null : who(change.slot) };
    }),
    sampled: plan.samples.map(({ index, slot, position }) => ({
      ...who(slot),
      slot,
      position,
      token: position - owners.get(slot)!.promptTokens + 1,
      tokenId: result.tokenIds[index] ?? null,
      logprob: Number.isFinite(result.logprobs[index]) ? result.logprobs[index]! : null,
      code: result.rowCodes[index] ?? result.code,
      dropped: !delivered.has(index),
    })),
    scored: plan.scores.length,
  };
}

export function stepText(step: StepDescription): string {
  const name = ({ request, sample }: Who) => `request ${request} sample ${sample}`;
  const took = `planned at ${time(step.plannedUs)}, its result there at ${time(step.committedUs)}`;
  const rows = step.computes.reduce((sum, { rows: count }) => sum + count, 0);
  const prefill = step.computes.filter((entry) => entry.prefill);
  const prefillRows = prefill.reduce((sum, { rows: count }) => sum + count, 0);
  const kind =
    step.type === 'stepPlan'
      ? `${counted(rows, 'row')} of ${counted(step.computes.length, 'sequence')}: ${grouped(prefillRows)} of prefill ` +
        `(${counted(prefill.length, 'sequence')}), ${grouped(rows - prefillRows)} of decode; ${counted(step.sampled.length, 'token')} sampled`
      : `a control instruction, ${spacedName(step.type)}`;
  const lines = [
    `Step ${step.step}: ${kind}`,
    `Weight version ${step.weightVersion}; ${took}.`,
    `${grouped(step.running)} sequences running, ${grouped(step.waiting)} waiting; KV blocks: ${grouped(step.freeBlocks)} free, ` +
      `${grouped(step.cachedBlocks)} cached, ${grouped(step.heldBlocks)} held.`,
  ];
  if (step.code !== 'none') lines.push(`It failed as a whole: ${step.code}. ${step.message}`.trimEnd());
  if (step.scored > 0) lines.push(`${counted(step.scored, 'prompt token')} scored.`);
  const section = (title: string, entries: [string, string][]) => {
    if (entries.length > 0) lines.push('', title, ...labelled(entries, '  '));
  };
  section(
    'Preempted to make room',
    step.preempted.map((entry) => [name(entry), 'gave its blocks back and waits']),
  );
  section(
    'Computes',
    step.computes.map((entry) => [name(entry), computeText(entry)]),
  );
  section(
    'Shares (fan-out)',
    step.shares.map((entry) => [
      name(entry),
      `slot ${entry.slot}, opened here; ${blocksText(entry.blocks)} of sample ${entry.with.sample}`,
    ]),
  );
  section(
    'Copies blocks, before anything is computed',
    step.copies.map(({ source, target, for: owner }) => [
      `block ${source} to ${target}`,
      owner === null ? '' : `for ${name(owner)}, which writes into it`,
    ]),
  );
  section(
    'Samples',
    step.sampled.map((entry) => [name(entry), sampledText(entry)]),
  );
  section(
    'Ended',
    step.ended.map(({ request, sample, count, reason, stopToken, code }) => [
      `request ${request} sample ${range(sample, sample + count - 1)}`,
      `${reason}${stopToken === null ? '' : ` ${stopToken}`}${code === 'none' ? '' : ` ${code}`}`,
    ]),
  );
  return `${lines.join('\n')}\n`;
}

function computeText(entry: StepDescription['computes'][number]): string {
  const { slot, start, rows, opened, prefill, gathered, cachedBlocks, newBlocks } = entry;
  const what = `${prefill ? 'prefill' : 'decode'} of position${rows === 1 ? '' : 's'} ${range(start, start + rows - 1)}`;
  const parts = [`slot ${slot}${opened ? ', opened here' : ''}`, what];
  if (gathered) parts.push('its input is sampled in the step before');
  if (cachedBlocks.length > 0) parts.push(`${blocksText(cachedBlocks)} from the prefix cache`);
  if (newBlocks.length > 0) parts.push(`new ${blocksText(newBlocks)}`);
  return parts.join('; ');
}

function sampledText({ token, tokenId, logprob, code, dropped }: StepDescription['sampled'][number]): string {
  if (tokenId === null || code !== 'none') return `token ${token} of its output: ${code}`;
  const likely = logprob === null ? '' : `, log-prob ${Number(logprob.toPrecision(7))}`;
  const late = dropped ? '; dropped, the sample had ended' : '';
  return `token ${token} of its output is ${tokenId}${likely}${late}`;
}

function blocksText(blocks: readonly number[]): string {
  return `block${blocks.length === 1 ? '' : 's'} ${ranges(blocks)}`;
}
