// Commands as plain objects, and their way onto the wire (schemas/command.fbs says what each one means).
//
// What the core can judge it judges: n = 0, a temperature of NaN, a prompt that is too long come back as refusals in an output.
// What the wire cannot even carry (n = 1.5, a token id of 2^40) throws a KadenzError here, naming request, field and value.

import * as flatbuffers from 'flatbuffers';
import { KadenzError } from '../errors.js';
import * as wire from '../generated/index.js';
import type { ResolvedCoreConfig } from './config.js';
import { boolean, finishMessage, type Origin, putVector, uint32, uint64 } from './flat.js';
import { putRequests, type RequestObject } from './requests.js';

export type PauseMode = 'abort' | 'wait' | 'keep' | 'retract';
export type MemoryTag = 'kv_cache' | 'weights';
type Id = number | bigint;

export type CommandBody =
  | { type: 'addRequests'; requests: readonly RequestObject[] }
  | { type: 'abortRequests'; requestIds?: readonly Id[]; all?: boolean }
  | { type: 'pauseGeneration'; mode: PauseMode }
  | { type: 'resumeGeneration' }
  | { type: 'resetPrefixCache'; force?: boolean }
  | { type: 'beginWeightUpdate' }
  | { type: 'finishWeightUpdate'; version: Id; succeeded?: boolean }
  | { type: 'releaseMemory'; tags: readonly MemoryTag[]; abortRunning?: boolean }
  | { type: 'resumeMemory'; tags: readonly MemoryTag[] }
  | { type: 'loadAdapter'; adapter: number; name: string; path: string }
  | { type: 'unloadAdapter'; adapter: number }
  | {
      type: 'setParallelGroups';
      tensorParallelSize?: number;
      pipelineParallelSize?: number;
      dataParallelSize?: number;
      rank?: number;
    }
  | { type: 'shutdown' };

/** A command; without an id, `Core` numbers it. The id comes back in its acknowledgement. */
export type CommandObject = CommandBody & { id?: Id };

export function encodeConfigure(id: Id, config: ResolvedCoreConfig): Uint8Array {
  const builder = new flatbuffers.Builder(256);
  const eos = putVector(builder, Int32Array.from(config.eosTokenIds));
  wire.Configure.startConfigure(builder);
  wire.Configure.addMaxNumSeqs(builder, config.maxNumSeqs);
  wire.Configure.addMaxNumBatchedTokens(builder, config.maxNumBatchedTokens);
  wire.Configure.addMaxModelLen(builder, config.maxModelLen);
  wire.Configure.addNumBlocks(builder, config.numBlocks);
  wire.Configure.addBlockSize(builder, config.blockSize);
  wire.Configure.addVocabSize(builder, config.vocabSize);
  wire.Configure.addMaxNumRequests(builder, config.maxNumRequests);
  wire.Configure.addLongPrefillTokenThreshold(builder, config.longPrefillTokenThreshold);
  wire.Configure.addEnablePrefixCache(builder, config.enablePrefixCache);
  wire.Configure.addMaxStepsInFlight(builder, config.maxStepsInFlight);
  wire.Configure.addMaxN(builder, config.maxN);
  wire.Configure.addMaxLogprobs(builder, config.maxLogprobs);
  wire.Configure.addTokenHeapBytes(builder, BigInt(config.tokenHeapBytes));
  wire.Configure.addEosTokenIds(builder, eos);
  return finishCommand(builder, id, wire.CommandPayload.Configure, wire.Configure.endConfigure(builder));
}

function finishCommand(
  builder: flatbuffers.Builder,
  id: Id,
  type: wire.CommandPayload,
  payload: flatbuffers.Offset,
): Uint8Array {
  const commandId = uint64(id, { code: 'invalid_argument', name: 'the id of a command' });
  return finishMessage(builder, wire.Command.createCommand(builder, commandId, type, payload));
}

/** The bits of schemas/command.fbs for these tags. */
export function memoryTagBits(tags: readonly MemoryTag[]): wire.MemoryTags {
  let bits = 0;
  for (const tag of tags) {
    const bit = wire.MemoryTags[tag];
    if (bit === undefined) {
      throw new KadenzError('invalid_argument', `Memory has the tags kv_cache and weights, not '${tag}'.`, {
        value: tag,
      });
    }
    bits |= bit;
  }
  return bits;
}

const PAUSE_MODES: Readonly<Record<PauseMode, wire.PauseMode>> = {
  abort: wire.PauseMode.abort,
  wait: wire.PauseMode.wait,
  keep: wire.PauseMode.keep,
  retract: wire.PauseMode.retract,
};

function pauseMode(mode: PauseMode): wire.PauseMode {
  const number = PAUSE_MODES[mode];
  if (number !== undefined) return number;
  throw new KadenzError(
    'invalid_argument',
    `Generation pauses by abort, wait, keep or retract, not by '${mode}'.`,
    {
      value: mode,
    },
  );
}

/** Bytes of a command, in a buffer of their own. */
export function encodeCommand(id: Id, command: CommandBody): Uint8Array {
  const builder = new flatbuffers.Builder(1024);
  // flatc's TypeScript takes the first flag of MemoryTags for its default and leaves it out; elsewhere the default is 0.
  builder.forceDefaults(true);
  const [type, payload] = putPayload(builder, command);
  return finishCommand(builder, id, type, payload);
}

function putPayload(
  builder: flatbuffers.Builder,
  command: CommandBody,
): [wire.CommandPayload, flatbuffers.Offset] {
  const { CommandPayload } = wire;
  const origin = (name: string): Origin => ({ code: 'invalid_argument', name: `${command.type}.${name}` });
  switch (command.type) {
    case 'addRequests':
      return [CommandPayload.AddRequests, putRequests(builder, command.requests)];
    case 'abortRequests': {
      const ids = (command.requestIds ?? []).map((id) => uint64(id, origin('requestIds')));
      const all = boolean(command.all ?? false, origin('all'));
      const vector = wire.AbortRequests.createRequestIdsVector(builder, ids);
      return [CommandPayload.AbortRequests, wire.AbortRequests.createAbortRequests(builder, vector, all)];
    }
    case 'pauseGeneration': {
      const pause = wire.PauseGeneration.createPauseGeneration(builder, pauseMode(command.mode));
      return [CommandPayload.PauseGeneration, pause];
    }
    case 'resumeGeneration':
      return [CommandPayload.ResumeGeneration, wire.ResumeGeneration.createResumeGeneration(builder)];
    case 'resetPrefixCache': {
      const force = boolean(command.force ?? false, origin('force'));
      return [CommandPayload.ResetPrefixCache, wire.ResetPrefixCache.createResetPrefixCache(builder, force)];
    }
    case 'beginWeightUpdate':
      return [CommandPayload.BeginWeightUpdate, wire.BeginWeightUpdate.createBeginWeightUpdate(builder)];
    case 'finishWeightUpdate': {
      const version = uint64(command.version, origin('version'));
      const succeeded = boolean(command.succeeded ?? true, origin('succeeded'));
      const finish = wire.FinishWeightUpdate.createFinishWeightUpdate(builder, version, succeeded);
      return [CommandPayload.FinishWeightUpdate, finish];
    }
    case 'releaseMemory': {
      const abortRunning = boolean(command.abortRunning ?? false, origin('abortRunning'));
      const tags = memoryTagBits(command.tags);
      return [
        CommandPayload.ReleaseMemory,
        wire.ReleaseMemory.createReleaseMemory(builder, tags, abortRunning),
      ];
    }
    case 'resumeMemory': {
      const tags = memoryTagBits(command.tags);
      return [CommandPayload.ResumeMemory, wire.ResumeMemory.createResumeMemory(builder, tags)];
    }
    case 'loadAdapter': {
      const adapter = uint32(command.adapter, origin('adapter'));
      const name = builder.createString(command.name);
      const path = builder.createString(command.path);
      return [CommandPayload.LoadAdapter, wire.LoadAdapter.createLoadAdapter(builder, adapter, name, path)];
    }
    case 'unloadAdapter': {
      const adapter = uint32(command.adapter, origin('adapter'));
      return [CommandPayload.UnloadAdapter, wire.UnloadAdapter.createUnloadAdapter(builder, adapter)];
    }
    case 'setParallelGroups': {
      const groups = wire.SetParallelGroups.createSetParallelGroups(
        builder,
        uint32(command.tensorParallelSize ?? 1, origin('tensorParallelSize')),
        uint32(command.pipelineParallelSize ?? 1, origin('pipelineParallelSize')),
        uint32(command.dataParallelSize ?? 1, origin('dataParallelSize')),
        uint32(command.rank ?? 0, origin('rank')),
      );
      return [CommandPayload.SetParallelGroups, groups];
    }
    case 'shutdown':
      return [CommandPayload.Shutdown, wire.Shutdown.createShutdown(builder)];
    default: {
      const { type } = command as { type: unknown };
      throw new KadenzError('invalid_argument', `There is no command of type '${String(type)}'.`, {
        value: type,
      });
    }
  }
}
