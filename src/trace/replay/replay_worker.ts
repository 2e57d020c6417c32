// One trace of a fan-out, in a thread of Piscina. What can't be replayed at all comes back as its code and sentence: a rejected task would
// lose the code.

import { KadenzError, type KadenzErrorCode } from '../../errors.js';
import { type ReplayReport, replayTrace } from './replay.js';

export type ReplayOutcome = ReplayReport | { path: string; code: KadenzErrorCode; message: string };

export default async function replayOne(path: string): Promise<ReplayOutcome> {
  try {
    return await replayTrace(path);
  } catch (error) {
    if (!(error instanceof KadenzError)) throw error;
    return { path, code: error.code, message: error.message };
  }
}
