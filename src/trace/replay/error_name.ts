// The names of the wire's error codes, for people: also of one that this version does not know.

import { wireErrorName } from '../../errors.js';

export function errorName(code: number): string {
  if (code === 0) return 'none';
  return wireErrorName(code) ?? `error ${code}`;
}
