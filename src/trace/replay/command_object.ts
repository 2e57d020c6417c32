// A recorded command as a plain object, to be named and compared.

import {
  decodeParams,
  memoryTags,
  messageBuffer,
  type ResolvedCoreConfig,
  WasmCore,
} from '../../core/index.js';
import * as wire from '../../generated/index.js';
import { snakeCase } from './difference.js';

/** Of a request that says nothing: its place in the vector, its table's offset to the vtable. */
const MIN_REQUEST_BYTES = 8;

/** `type` as on the command line: 'add_requests'. */
export type CommandFields = { type: string; id: string } & Record<string, unknown>;

/** The fields of a command; null when these bytes are none. A core of its own judges that: nothing else verifies commands. */
export async function readCommandObject(
  bytes: Uint8Array,
  config: ResolvedCoreConfig,
): Promise<CommandFields | null> {
  const core = await WasmCore.create(config);
  const output = wire.Output.getRootAsOutput(messageBuffer(core.apply(bytes).slice()));
  if (output.ackCommandLength() > 0 && output.ackCode(0) === wire.ErrorCode.malformed_message) return null;
  const command = wire.Command.getRootAsCommand(messageBuffer(bytes));
  const name = wire.CommandPayload[command.payloadType()] ?? `kind ${command.payloadType()}`;
  const type = snakeCase(name).replace(/^_/, '');
  return { type, id: String(command.id()), ...payloadFields(command) };
}

function payloadFields(command: wire.Command): Record<string, unknown> {
  const { CommandPayload } = wire;
  switch (command.payloadType()) {
    case CommandPayload.AddRequests: {
      return { requests: allRequests(command.payload(new wire.AddRequests())) };
    }
    case CommandPayload.AbortRequests: {
      const abort: wire.AbortRequests = command.payload(new wire.AbortRequests());
      const requestIds = Array.from({ length: abort.requestIdsLength() }, (_, i) =>
        String(abort.requestIds(i)),
      );
      return { requestIds, all: abort.all() };
    }
    case CommandPayload.PauseGeneration: {
      const pause: wire.PauseGeneration = command.payload(new wire.PauseGeneration());
      return { mode: wire.PauseMode[pause.mode()] };
    }
    case CommandPayload.ResetPrefixCache: {
      const reset: wire.ResetPrefixCache = command.payload(new wire.ResetPrefixCache());
      return { force: reset.force() };
    }
    case CommandPayload.FinishWeightUpdate: {
      const finish: wire.FinishWeightUpdate = command.payload(new wire.FinishWeightUpdate());
      return { version: String(finish.version()), succeeded: finish.succeeded() };
    }
    case CommandPayload.ReleaseMemory: {
      const release: wire.ReleaseMemory = command.payload(new wire.ReleaseMemory());
      return { tags: memoryTags(release.tags()), abortRunning: release.abortRunning() };
    }
    case CommandPayload.ResumeMemory: {
      const resume: wire.ResumeMemory = command.payload(new wire.ResumeMemory());
      return { tags: memoryTags(resume.tags()) };
    }
    case CommandPayload.LoadAdapter: {
      const load: wire.LoadAdapter = command.payload(new wire.LoadAdapter());
      return { adapter: load.adapter(), name: load.name(), path: load.path() };
    }
    case CommandPayload.UnloadAdapter: {
      const unload: wire.UnloadAdapter = command.payload(new wire.UnloadAdapter());
      return { adapter: unload.adapter() };
    }
    case CommandPayload.SetParallelGroups: {
      const groups: wire.SetParallelGroups = command.payload(new wire.SetParallelGroups());
      return {
        tensorParallelSize: groups.tensorParallelSize(),
        pipelineParallelSize: groups.pipelineParallelSize(),
        dataParallelSize: groups.dataParallelSize(),
        rank: groups.rank(),
      };
    }
    default:
      return {};
  }
}

/** Entries that share one table could say more than memory holds: those of an honest command come to no more than its bytes. */
function allRequests(add: wire.AddRequests): Record<string, unknown>[] {
  const requests: Record<string, unknown>[] = [];
  let bytesLeft = add.bb!.capacity();
  for (let i = 0; i < add.requestsLength() && bytesLeft > 0; i += 1) {
    const request = add.requests(i)!;
    const numIds = request.promptTokenIdsLength() + request.stopTokenIdsLength() + 2 * request.biasLength();
    bytesLeft -= MIN_REQUEST_BYTES + 4 * numIds;
    requests.push(requestFields(request));
  }
  return requests;
}

function requestFields(request: wire.Request): Record<string, unknown> {
  const params = request.params();
  return {
    id: String(request.id()),
    promptTokenIds: Array.from(request.promptTokenIdsArray() ?? []),
    n: request.n(),
    priority: request.priority(),
    adapter: request.adapter(),
    cacheSalt: String(request.cacheSalt()),
    ...(params === null ? {} : paramFields(params)),
    stopTokenIds: Array.from(request.stopTokenIdsArray() ?? []),
    biasTokenIds: Array.from(request.biasTokenIdsArray() ?? []),
    bias: Array.from(request.biasArray() ?? []),
  };
}

function paramFields(params: wire.SamplingParams): Record<string, unknown> {
  const mode = wire.LogprobsMode[params.logprobsMode()] ?? params.logprobsMode();
  return { ...decodeParams(params), seed: String(params.seed()), logprobsMode: mode };
}
