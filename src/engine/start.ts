// The start of an engine: the model judged, the recording opened, the rank's worker with its host and core up. What it hands over is
// all that an Engine runs on.

import type { HostDtype, HostInfo } from '../host/host.js';
import { loadModel } from '../model/index.js';
import { Rank } from '../rank/rank.js';
import type { TraceWriter } from '../trace/index.js';
import { Dispatcher } from './dispatcher.js';
import {
  checkEngineOptions,
  type EngineLogger,
  type EngineOptions,
  resolveEngineOptions,
} from './options.js';
import { checkRecordOptions, startRecording } from './recording.js';

/** What one engine came to, for its user to read. */
export interface EngineInfo {
  model: string;
  /** 'cpu', or 'cuda:0' and so on. */
  device: string;
  dtype: HostDtype;
  vocabSize: number;
  maxModelLen: number;
  maxNumSeqs: number;
  maxNumBatchedTokens: number;
  kvCacheBlocks: number;
  blockSize: number;
  numThreads: number;
  host: HostInfo;
}

export interface EngineParts {
  info: EngineInfo;
  seed: bigint;
  maxN: number;
  dispatcher: Dispatcher;
  rank: Rank;
  trace: TraceWriter | null;
  logger: EngineLogger | undefined;
}

/**
 * Throws a KadenzError: model_not_found, unsupported_config, missing_tensor, cuda_unavailable, ...
 * @param hostModule what the worker opens as its host: URL of a module with `openHost`
 */
export async function startEngine(options: EngineOptions, hostModule: string): Promise<EngineParts> {
  checkEngineOptions(options);
  const model = loadModel(options.model);
  const { coreConfig, hostOptions, fitModelLen, seed } = resolveEngineOptions(options, model);
  const { logger, record, onProgress } = options;
  const recording =
    record === undefined
      ? null
      : await startRecording(checkRecordOptions(record), model, (error) => logger?.error(error.message));
  const dispatcher = new Dispatcher(coreConfig.maxNumRequests);
  const starting = Rank.start({
    ...{ coreConfig, fitModelLen, hostModule, hostOptions, recording: recording?.task ?? null },
    listener: {
      onProgress: (progress) => onProgress?.(progress),
      onTrace: (payload) => recording?.writer.write(payload),
      onOutput: (output, result) => dispatcher.onOutput(output, result),
      onEnd: (error) => {
        if (error !== null) logger?.error(error.message);
        dispatcher.onEnd(error);
      },
    },
  });
  starting.catch(() => recording?.writer.close().catch(() => {}));
  const rank = await starting;
  dispatcher.attach((command) => rank.send(command));
  const { dtype, numThreads } = hostOptions;
  const { maxModelLen, maxNumSeqs, maxNumBatchedTokens, numBlocks, blockSize } = rank.coreConfig;
  const info: EngineInfo = {
    ...{ model: model.directory, device: rank.info.device, dtype, vocabSize: model.config.vocabSize },
    ...{ maxModelLen, maxNumSeqs, maxNumBatchedTokens, kvCacheBlocks: numBlocks, blockSize, numThreads },
    host: rank.info,
  };
  logger?.info(
    `${options.model} is ready on ${info.device}: ${dtype}, ${numBlocks} KV blocks of ${blockSize} tokens`,
  );
  return { info, seed, maxN: coreConfig.maxN, dispatcher, rank, trace: recording?.writer ?? null, logger };
}
