// Commands of a trace in words, and the requests that they add.

import { fromWide } from '../../core/flat.js';
import { memoryTags, messageBuffer } from '../../core/index.js';
import * as wire from '../../generated/index.js';

type Id = number | bigint;

/** A request as it was asked for, without its tokens. */
export interface AskedRequest {
  id: Id;
  n: number;
  promptTokens: number;
  priority: number;
  adapter: number;
  maxTokens: number;
  minTokens: number;
  temperature: number;
  seed: Id;
}

export interface DecodedCommand {
  id: Id;
  /** As the wire calls it: AddRequests, PauseGeneration, ... */
  type: string;
  /** For people: `pause generation (keep)`. */
  words: string;
  requests: AskedRequest[];
}

/** @param bytes a Command that the core has taken */
export function decodeCommand(bytes: Uint8Array): DecodedCommand {
  const command = wire.Command.getRootAsCommand(messageBuffer(bytes));
  const type = wire.CommandPayload[command.payloadType()] ?? 'unknown';
  const requests = type === 'AddRequests' ? requestsOf(command.payload(new wire.AddRequests())) : [];
  return { id: fromWide(command.id()), type, words: wordsOf(command, requests), requests };
}

function requestsOf(payload: wire.AddRequests): AskedRequest[] {
  return Array.from({ length: payload.requestsLength() }, (_, i) => {
    const request = payload.requests(i)!;
    const params = request.params();
    return {
      id: fromWide(request.id()),
      n: request.n(),
      promptTokens: request.promptTokenIdsLength(),
      priority: request.priority(),
      adapter: request.adapter(),
      maxTokens: params?.maxTokens() ?? 0,
      minTokens: params?.minTokens() ?? 0,
      temperature: params?.temperature() ?? 0,
      seed: fromWide(params?.seed() ?? 0n),
    };
  });
}

export function counted(count: number, noun: string): string {
  return `${count.toLocaleString('en-US')} ${noun}${count === 1 ? '' : 's'}`;
}

function wordsOf(command: wire.Command, requests: readonly AskedRequest[]): string {
  const { CommandPayload } = wire;
  switch (command.payloadType()) {
    case CommandPayload.AddRequests:
      return `add ${counted(requests.length, 'request')}`;
    case CommandPayload.AbortRequests: {
      const abort: wire.AbortRequests = command.payload(new wire.AbortRequests());
      const ids = Array.from({ length: Math.min(abort.requestIdsLength(), 5) }, (_, i) =>
        abort.requestIds(i),
      );
      const more = abort.requestIdsLength() > ids.length ? ', ...' : '';
      return abort.all() ? 'abort all requests' : `abort requests ${ids.join(', ')}${more}`;
    }
    case CommandPayload.PauseGeneration: {
      const pause: wire.PauseGeneration = command.payload(new wire.PauseGeneration());
      return `pause generation (${wire.PauseMode[pause.mode()] ?? pause.mode()})`;
    }
    case CommandPayload.ResumeGeneration:
      return 'resume generation';
    case CommandPayload.ResetPrefixCache: {
      const reset: wire.ResetPrefixCache = command.payload(new wire.ResetPrefixCache());
      return `reset the prefix cache${reset.force() ? ' (forced)' : ''}`;
    }
    case CommandPayload.BeginWeightUpdate:
      return 'begin a weight update';
    case CommandPayload.FinishWeightUpdate: {
      const finish: wire.FinishWeightUpdate = command.payload(new wire.FinishWeightUpdate());
      return `finish the weight update (version ${finish.version()}, ${finish.succeeded() ? 'succeeded' : 'failed'})`;
    }
    case CommandPayload.ReleaseMemory: {
      const release: wire.ReleaseMemory = command.payload(new wire.ReleaseMemory());
      const aborts = release.abortRunning() ? '; aborts what runs' : '';
      return `release memory (${memoryTags(release.tags()).join(', ')}${aborts})`;
    }
    case CommandPayload.ResumeMemory: {
      const resume: wire.ResumeMemory = command.payload(new wire.ResumeMemory());
      return `resume memory (${memoryTags(resume.tags()).join(', ')})`;
    }
    case CommandPayload.LoadAdapter: {
      const load: wire.LoadAdapter = command.payload(new wire.LoadAdapter());
      return `load adapter ${load.adapter()} (${load.name() ?? ''})`;
    }
    case CommandPayload.UnloadAdapter: {
      const unload: wire.UnloadAdapter = command.payload(new wire.UnloadAdapter());
      return `unload adapter ${unload.adapter()}`;
    }
    case CommandPayload.SetParallelGroups:
      return 'set the parallel groups';
    case CommandPayload.Shutdown:
      return 'shut down';
    default:
      return `a command of kind ${command.payloadType()}`;
  }
}

/** A name of the wire, as people write it: BeginWeightUpdate, begin weight update. */
export function spacedName(name: string): string {
  return name.replace(/(?!^)([A-Z])/g, ' $1').toLowerCase();
}
