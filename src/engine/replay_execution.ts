// Executes a recorded run again on a real host: opens the model and the host as the run had them, and replays the trace with the host
// behind the core. Token ids and log-prob bits must come out as they were recorded.
//
// What need not be a difference is told as warnings, before anything runs: another model, another host, weights that were updated. Another
// kind of device gives other bits from the first step on, so that is refused.

import { availableParallelism } from 'node:os';
import type { ResolvedCoreConfig } from '../core/index.js';
import { KadenzError } from '../errors.js';
import { type Device, type DeviceKind, deviceName, parseDevice } from '../host/device.js';
import type { HostDtype } from '../host/host.js';
import { openHost } from '../host/native_host.js';
import { type StartProgress, thinProgress } from '../host/start_progress.js';
import { loadModel, modelFingerprint } from '../model/index.js';
import {
  configOf,
  type ReplayOptions,
  type ReplayReport,
  replayTrace,
  type TraceHeader,
  TraceReader,
} from '../trace/index.js';
import { GPU_MEMORY_UTILIZATION_DEFAULT } from './options.js';

export interface ExecutionOptions extends Omit<ReplayOptions, 'executor'> {
  /** A Hugging Face model directory: the one that the run had. */
  model: string;
  /** 'cpu', 'cuda', or 'cuda:1' and so on. Default: of the kind that the run was recorded on. */
  device?: Device;
  /** Of the host. Default: the processors that this process may use. The tokens do not depend on it. */
  numThreads?: number;
  /** Is told how far the host's start is. */
  onStart?: (progress: StartProgress) => void;
  /** Is told a sentence for each thing that may explain a difference. */
  onWarning?: (sentence: string) => void;
}

/** Throws what loading a model, opening a host and opening a trace throw; trace_unsupported and trace_mismatch where it can't be executed. */
export async function replayExecution(path: string, options: ExecutionOptions): Promise<ReplayReport> {
  const { model: directory, device, numThreads, onWarning = () => {}, onStart, ...replayOptions } = options;
  const wanted = device === undefined ? null : parseDevice(device);
  const { header, config } = await readHeader(path);
  const { kind, dtype } = recordedHost(path, header);
  const { index } = wanted ?? { index: 0 };
  if (wanted !== null && wanted.kind !== kind)
    refuseDevice(path, { header, kind, asked: deviceName(wanted) });
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
  const pool = { numBlocks, blockSize, maxNumSeqs, maxModelLen, maxNumBatchedTokens };
  const cuda = {
    ...{ deviceIndex: index, gpuMemoryUtilization: GPU_MEMORY_UTILIZATION_DEFAULT, mostBlocks: numBlocks },
    ...{ cudaGraphs: true, unrestrictedMatmul: false },
  };
  const host = openHost(
    {
      ...{ model, dtype, ...pool, numThreads: numThreads ?? availableParallelism() },
      cuda: kind === 'cuda' ? cuda : null,
    },
    thinProgress((progress) => onStart?.(progress)),
  );
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

interface RecordedHost {
  kind: DeviceKind;
  dtype: HostDtype;
}

/** The fingerprint of a host begins with its kind and goes on to its dtype, as in 'cpu x86-64 float32 numerics-1'. */
function recordedHost(path: string, { hostFingerprint }: TraceHeader): RecordedHost {
  const words = hostFingerprint.split(' ');
  const kind = (['cpu', 'cuda'] as const).find((name) => name === words[0]);
  const dtype = words.find((word): word is HostDtype => ['float32', 'bfloat16', 'float16'].includes(word));
  if (kind !== undefined && dtype !== undefined) return { kind, dtype };
  throw new KadenzError(
    'trace_unsupported',
    hostFingerprint === ''
      ? `${path} was recorded without a host (a simulation, say): there are no tokens of a model to compare with. ` +
          'Replay it without --execute, which compares its plans.'
      : `${path} was recorded on the host '${hostFingerprint}', whose kind or dtype this version does not know. ` +
          'Replay it without --execute, which compares its plans.',
    { path, value: hostFingerprint },
  );
}

function refuseDevice(
  path: string,
  { header, kind, asked }: { header: TraceHeader; kind: DeviceKind; asked: string },
): never {
  throw new KadenzError(
    'trace_mismatch',
    `${path} was recorded on the host '${header.hostFingerprint}'; device '${asked}' computes other bits from the first step on. ` +
      `Execute it with --device ${kind}, or replay without --execute, which compares its plans on any machine.`,
    { path, value: asked, limit: kind },
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
