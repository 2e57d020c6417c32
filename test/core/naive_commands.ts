// What each command does to the naive model's state, and what the state forbids.
import type { NaiveState } from './naive_state.js';
import type { MemoryTag, NaiveCommand, NaiveRequest, NaiveRequestInput, Refusal } from './naive_types.js';
import { refuseRequest } from './naive_validation.js';

const maxAdapters = 64;

const allTags = 3;

function tagBits(tags: Iterable<MemoryTag>): number {
  let bits = 0;
  for (const tag of tags) bits |= tag === 'kv_cache' ? 1 : 2;
  return bits;
}

const refusal = (code: string, value = 0, limit = 0): Refusal => ({ code, value, limit });

/** Carries the command out as far as it goes at once: acknowledges it, refuses it, or leaves it to a later step boundary. */
export function applyCommand(state: NaiveState, command: NaiveCommand): void {
  if (state.shutDown && command.type !== 'addRequests') {
    state.ack(command.id, refusal('shut_down'));
    return;
  }
  switch (command.type) {
    case 'addRequests':
      for (const request of command.requests) addRequest(state, request);
      state.ack(command.id);
      return;
    case 'abortRequests':
      abortRequests(state, command.requestIds, command.all);
      state.ack(command.id);
      return;
    case 'pauseGeneration':
      pauseGeneration(state, command.id, command.mode);
      return;
    case 'resumeGeneration':
      state.ack(command.id, resumeGeneration(state));
      return;
    case 'resetPrefixCache':
      state.ack(command.id, resetPrefixCache(state, command.force));
      return;
    default: {
      const answer = projectControl(state, command);
      if (typeof answer === 'function') state.controls.push({ command, undo: answer });
      else state.ack(command.id, answer);
    }
  }
}

function addRequest(state: NaiveState, input: NaiveRequestInput): void {
  const why = refuseAdmission(state, input);
  if (why) {
    state.out.finishes.push({
      request: input.id,
      sample: 0,
      count: input.n,
      reason: 'error',
      stopToken: -1,
      ...why,
      preemptions: 0,
    });
    return;
  }
  state.requests.set(input.id, {
    input,
    arrival: ++state.arrivals,
    nextSample: 0,
    leader: null,
    held: state.pause === 'draining',
    startReported: false,
    scored: 0,
    live: new Set(),
    preemptions: new Map(),
    fannedOutInSchedule: -1,
  });
}

function refuseAdmission(state: NaiveState, input: NaiveRequestInput): Refusal | null {
  const paused = state.pause !== 'none';
  if (state.shutDown) return refusal('shut_down');
  if (!paused && state.released.size > 0) return refusal('memory_released', tagBits(state.released));
  if (!state.usable) return refusal('weights_unavailable');
  if (!paused && state.updating) return refusal('weights_unavailable');
  if (state.requests.has(input.id)) return refusal('request_id_in_use', input.id);
  const why = refuseRequest(input, state.config);
  if (why) return why;
  const { maxNumRequests } = state.config;
  if (state.requests.size >= maxNumRequests) return refusal('queue_full', maxNumRequests + 1, maxNumRequests);
  if (input.adapter !== 0 && !state.adapters.has(input.adapter))
    return refusal('unknown_adapter', input.adapter);
  return null;
}

function abortRequests(state: NaiveState, ids: number[], all: boolean): void {
  if (all) {
    abortAll(state);
    return;
  }
  for (const id of ids) {
    const request = state.requests.get(id);
    if (request) state.endRequest(request, 'abort');
  }
}

function byArrival(state: NaiveState): NaiveRequest[] {
  return [...state.requests.values()].sort((a, b) => a.arrival - b.arrival);
}

function abortAll(state: NaiveState): void {
  for (const request of byArrival(state)) state.endRequest(request, 'abort');
}

function preemptAll(state: NaiveState): void {
  for (const sequence of state.running().reverse()) if (sequence.state === 'running') state.preempt(sequence);
}

function pauseGeneration(state: NaiveState, id: number, mode: 'abort' | 'wait' | 'keep' | 'retract'): void {
  if (mode === 'wait') {
    if (state.pause === 'none') state.pause = 'draining';
  } else {
    state.pause = 'paused';
  }
  if (mode === 'abort') abortAll(state);
  if (mode === 'retract') preemptAll(state);
  state.pendingPauses.push(id);
}

function resumeGeneration(state: NaiveState): Refusal | null {
  if (state.updating) return refusal('weight_update_in_progress');
  if (!state.usable) return refusal('weights_unavailable');
  for (const id of state.pendingPauses) state.ack(id, refusal('not_paused'));
  state.pendingPauses = [];
  state.pause = 'none';
  for (const request of state.requests.values()) request.held = false;
  return null;
}

function resetPrefixCache(state: NaiveState, force: boolean): Refusal | null {
  const numRunning = state.running().length;
  if (numRunning > 0 && !force) return refusal('requests_running', numRunning);
  preemptAll(state);
  state.blocks.forget();
  return null;
}

type Control = Exclude<
  NaiveCommand,
  { type: 'addRequests' | 'abortRequests' | 'pauseGeneration' | 'resumeGeneration' | 'resetPrefixCache' }
>;

/** The refusal, or the way back should the host fail it. The change itself is assumed from now on. */
function projectControl(state: NaiveState, command: Control): Refusal | (() => void) {
  const { updating, usable, projectedVersion } = state;
  switch (command.type) {
    case 'beginWeightUpdate':
      if (updating) return refusal('weight_update_in_progress');
      if (state.released.has('weights')) return refusal('memory_released');
      if (state.pause !== 'paused' && state.requests.size > 0) {
        return refusal('requests_running', state.requests.size);
      }
      state.updating = true;
      return () => {
        state.updating = false;
      };
    case 'finishWeightUpdate':
      if (!updating) return refusal('no_weight_update');
      if (command.succeeded && command.version <= projectedVersion) {
        return refusal('weight_version_not_monotonic', command.version, projectedVersion);
      }
      state.updating = false;
      state.usable = command.succeeded;
      if (command.succeeded) state.projectedVersion = command.version;
      return () => {
        state.updating = true;
        state.usable = usable;
        state.projectedVersion = projectedVersion;
      };
    case 'releaseMemory':
      return releaseMemory(state, command.tags, command.abortRunning);
    case 'resumeMemory':
      if (command.tags.length === 0) return refusal('invalid_argument', 0, allTags);
      if (command.tags.some((tag) => !state.released.has(tag))) return refusal('memory_not_released');
      for (const tag of command.tags) state.released.delete(tag);
      return () => {
        for (const tag of command.tags) state.released.add(tag);
      };
    case 'loadAdapter': {
      const { adapter } = command;
      if (adapter === 0) return refusal('invalid_argument');
      if (state.adapters.has(adapter)) return refusal('adapter_exists', adapter);
      if (state.adapters.size >= maxAdapters)
        return refusal('too_many_adapters', maxAdapters + 1, maxAdapters);
      state.adapters.add(adapter);
      return () => {
        state.adapters.delete(adapter);
        const users = byArrival(state).filter((request) => request.input.adapter === adapter);
        for (const user of users) state.endRequest(user, 'error', refusal('unknown_adapter'));
      };
    }
    case 'unloadAdapter': {
      const { adapter } = command;
      if (!state.adapters.has(adapter)) return refusal('unknown_adapter', adapter);
      const used = [...state.requests.values()].some((request) => request.input.adapter === adapter);
      if (used) return refusal('adapter_in_use', adapter);
      state.adapters.delete(adapter);
      // Another adapter may take its number.
      state.blocks.forget();
      return () => {
        state.adapters.add(adapter);
      };
    }
    case 'setParallelGroups': {
      const sizes = [command.tensorParallelSize, command.pipelineParallelSize, command.dataParallelSize];
      if (sizes.some((size) => size < 1)) return refusal('invalid_argument', 0, 1);
      if (state.requests.size > 0) return refusal('requests_running', state.requests.size);
      return () => {};
    }
    case 'shutdown':
      abortAll(state);
      state.shutDown = true;
      return () => {};
  }
}

function releaseMemory(state: NaiveState, tags: MemoryTag[], abortRunning: boolean): Refusal | (() => void) {
  if (tags.length === 0) return refusal('invalid_argument', 0, allTags);
  if (tags.some((tag) => state.released.has(tag))) return refusal('memory_released');
  if (abortRunning) abortAll(state);
  if (tags.includes('kv_cache')) {
    preemptAll(state);
    state.blocks.forget();
  }
  for (const tag of tags) state.released.add(tag);
  return () => {
    for (const tag of tags) state.released.delete(tag);
  };
}
