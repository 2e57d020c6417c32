// The `record` option: a run's trace, from the rank's worker to a file.

import { readFileSync } from 'node:fs';
import { KadenzError } from '../errors.js';
import { type LoadedModel, modelFingerprint } from '../model/index.js';
import type { RecordingTask } from '../rank/protocol.js';
import { TraceWriter } from '../trace/index.js';

export interface RecordOptions {
  /** Of the trace; it is overwritten. */
  path: string;
  /** Also keep every instruction's bytes, so that a replay can name the field that differs: about 25 bytes more a token. Default false. */
  plans?: boolean;
  /** Of each frame. Default 'none'. */
  compression?: 'none' | 'zstd';
}

const NAMES = ['path', 'plans', 'compression'];

/** Refuses what `record` can't be; a string is a path. */
export function checkRecordOptions(record: string | RecordOptions): RecordOptions {
  const options = typeof record === 'string' ? { path: record } : record;
  if (
    typeof options !== 'object' ||
    options === null ||
    typeof options.path !== 'string' ||
    options.path === ''
  ) {
    throw new KadenzError(
      'invalid_argument',
      'record must be the path of a trace, or { path, plans, compression }.',
    );
  }
  for (const name of Object.keys(options)) {
    if (NAMES.includes(name)) continue;
    const sentence = `record has no option '${name}'; it has ${NAMES.join(', ')}.`;
    throw new KadenzError('unknown_option', sentence, { value: name });
  }
  const { plans = false, compression = 'none' } = options;
  if (typeof plans !== 'boolean')
    throw new KadenzError('invalid_argument', `record.plans is ${String(plans)}; it must be true or false.`);
  if (compression !== 'none' && compression !== 'zstd') {
    const sentence = `record.compression is '${String(compression)}'; it must be 'none' or 'zstd'.`;
    throw new KadenzError('invalid_argument', sentence, { value: compression });
  }
  return options;
}

export interface Recording {
  writer: TraceWriter;
  task: RecordingTask;
}

/** Opens the file, and says what the worker needs to know. Throws record_failed. */
export async function startRecording(
  { path, plans = false, compression = 'none' }: RecordOptions,
  model: LoadedModel,
  onError: (error: KadenzError) => void,
): Promise<Recording> {
  const writer = await TraceWriter.create(path, { compression, onError });
  return {
    writer,
    task: {
      plans,
      header: {
        kadenzVersion: kadenzVersion(),
        model: model.directory,
        modelFingerprint: modelFingerprint(model),
        createdUnixMs: Date.now(),
      },
    },
  };
}

function kadenzVersion(): string {
  const text = readFileSync(new URL('../../package.json', import.meta.url), 'utf8');
  return (JSON.parse(text) as { version: string }).version;
}
