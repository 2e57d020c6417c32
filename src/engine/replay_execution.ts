// Executes a recorded run again on a real host: opens the model and the host as the run had them, and replays the trace with the host
// behind the core. Token ids and log-prob bits must come out as they were recorded.
//
// What need not be a difference is told as warnings, before anything runs: another model, another host, weights that were updated.

import { availableParallelism } from 'node:os';
import type { ResolvedCoreConfig } from '../core/index.js';
import { KadenzError } from '../errors.js';
import { openHost } from '../host/native_host.js';
import { loadModel, modelFingerprint } from '../model/index.js';
import {
  configOf,
  type ReplayOptions,
  type ReplayReport,
  replayTrace,
  type TraceHeader,
  TraceReader,
} from '../trace/index.js';

export interface ExecutionOptions extends Omit<ReplayOptions, 'executor'> {
  /** A Hugging Face model directory: the one that the run had. */
  model: string;
  /** Default 'cpu', the only one there is. */
  device?: 'cpu';
  /** Of the host. Default: the processors that this process may use. The tokens do not depend on it. */
  numThreads?: number;
  /** Is told a sentence for each thing that may explain a difference. */
  onWarning?: (sentence: string) => void;
}

/** Throws what loading a model, opening a host and opening a trace throw; trace_unsupported and trace_mismatch where it can't be executed. */
export async function replayExecution(path: string, options: ExecutionOptions): Promise<ReplayReport> {
  const { model: directory, device = 'cpu', numThreads, onWarning = () => {}, ...replayOptions } = options;
  if (device !== 'cpu') {
    const sentence = `device is '${String(device)}'; this version has 'cpu'.`;
    throw new KadenzError('unsupported_device', sentence, { value: device });
  }
  const { header, config } = await readHeader(path);
  const dtype = dtypeOf(path, header);
  const model = loadModel(directory);
  requireVocabulary(path, config, model.config.vocabSize);
  const fingerprint = modelFingerprint(model);
  if (fingerprint !== header.modelFingerprint) {
    onWarning(
      `${path} was recorded with another model than ${directory}: its fingerprint is ${header.modelFingerprint || 'not recorded'}, ` +
        `this one's is ${fingerprint}. The plans are compared all the same; tokens and log-probs are likely to differ. ` +
        `Give --model the directory that it was recorded with${header.model === '' ? '' : ` (${header.model})`}.`,
    );
  }
  const { maxNumSeqs, maxModelLen, maxNumBatchedTokens, numBlocks, blockSize } = config;
  const host = openHost({
    model,
    dtype,
    numBlocks,
    blockSize,
    maxNumSeqs,
    maxModelLen,
    maxNumBatchedTokens,
    numThreads: numThreads ?? availableParallelism(),
  });
  try {
    if (host.info.fingerprint !== header.hostFingerprint) {
      onWarning(
        `${path} was recorded on the host '${header.hostFingerprint}'; this one is '${host.info.fingerprint}'. ` +
          'Equal bits are promised between equal hosts only: a difference of log-probs may come from there.',
      );
    }
    return await replayTrace(path, { ...replayOptions, executor: host });
  } finally {
    host.close();
  }
}

async function readHeader(path: string): Promise<{ header: TraceHeader; config: ResolvedCoreConfig }> {
  const reader = await TraceReader.open(path);
  try {
    return { header: reader.header, config: configOf(path, reader.header) };
  } finally {
    reader.close();
  }
}

/** The fingerprint of a host names its dtype, as in 'cpu x86-64 float32 numerics-1'. */
function dtypeOf(path: string, { hostFingerprint }: TraceHeader): 'float32' | 'bfloat16' {
  const words = hostFingerprint.split(' ');
  const dtype = (['float32', 'bfloat16'] as const).find((name) => words.includes(name));
  if (dtype !== undefined) return dtype;
  throw new KadenzError(
    'trace_unsupported',
    hostFingerprint === ''
      ? `${path} was recorded without a host (a simulation, say): there are no tokens of a model to compare with. ` +
          'Replay it without --execute, which compares its plans.'
      : `${path} was recorded on the host '${hostFingerprint}', whose dtype this version does not know. ` +
          'Replay it without --execute, which compares its plans.',
    { path, value: hostFingerprint },
  );
}

function requireVocabulary(path: string, { vocabSize }: ResolvedCoreConfig, ofModel: number): void {
  if (vocabSize === ofModel) return;
  throw new KadenzError(
    'trace_mismatch',
    `${path} was recorded with a vocabulary of ${vocabSize} tokens; this model has ${ofModel}. Give the model that it was ` +
      'recorded with, or replay without --execute, which compares its plans.',
    { path, value: ofModel, limit: vocabSize },
  );
}
