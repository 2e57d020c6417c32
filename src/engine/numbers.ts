// Numbers that a caller gives as options.

import { KadenzError } from '../errors.js';

const UINT32_MAX = 2 ** 32 - 1;

/** A whole number of 32 bits; throws invalid_argument. */
export function count(value: unknown, name: string, least: number): number {
  if (typeof value === 'number' && Number.isInteger(value) && value >= least && value <= UINT32_MAX)
    return value;
  const sentence = `${name} is ${String(value)}; it must be a whole number from ${least} to ${UINT32_MAX}.`;
  throw new KadenzError('invalid_argument', sentence, { value, limit: UINT32_MAX });
}
