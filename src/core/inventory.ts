// Who is in the core, off the wire as plain objects (schemas/output.fbs, Inventory): for people and tools.

import * as wire from '../generated/index.js';
import { fromWide, messageBuffer } from './flat.js';

type Id = number | bigint;

/** A live request. What it has started is among the sequences. */
export interface RequestState {
  id: Id;
  /** Its place in the order of arrival. */
  arrival: number;
  priority: number;
  promptTokens: number;
  /** Samples that have not started. */
  unstarted: number;
  /** Kept back until a pause of mode wait is over. */
  held: boolean;
}

export type SequenceStateName = 'follower' | 'running' | 'waiting' | 'ended';

/** A sample that has started. */
export interface SequenceStateObject {
  request: Id;
  sample: number;
  /** follower: its leader still computes their prompt; waiting: preempted; ended: its last step is still in flight. */
  state: SequenceStateName;
  /** null unless it runs. */
  slot: number | null;
  numTokens: number;
  numComputed: number;
  numBlocks: number;
  preemptions: number;
}

export interface InventoryObject {
  /** By arrival. */
  requests: RequestState[];
  /** By arrival of the request, then by sample; ended ones of requests that are gone come last. */
  sequences: SequenceStateObject[];
}

const STATE_NAMES = ['free', 'follower', 'running', 'waiting', 'ended'] as const;

export function decodeInventory(bytes: Uint8Array): InventoryObject {
  const inventory = wire.Inventory.getRootAsInventory(messageBuffer(bytes));
  const requests = Array.from(
    { length: inventory.requestIdLength() },
    (_, i): RequestState => ({
      id: fromWide(inventory.requestId(i)!),
      arrival: Number(inventory.requestArrival(i)),
      priority: inventory.requestPriority(i)!,
      promptTokens: inventory.requestPromptTokens(i)!,
      unstarted: inventory.requestUnstarted(i)!,
      held: Boolean(inventory.requestHeld(i)),
    }),
  );
  const sequences = Array.from({ length: inventory.sequenceRequestLength() }, (_, i): SequenceStateObject => {
    const state = STATE_NAMES[inventory.sequenceState(i)!] as SequenceStateName;
    const isSeated = state === 'running' || state === 'follower';
    return {
      request: fromWide(inventory.sequenceRequest(i)!),
      sample: inventory.sequenceSample(i)!,
      state,
      slot: isSeated ? inventory.sequenceSlot(i)! : null,
      numTokens: inventory.sequenceTokens(i)!,
      numComputed: inventory.sequenceComputed(i)!,
      numBlocks: inventory.sequenceBlocks(i)!,
      preemptions: inventory.sequencePreemptions(i)!,
    };
  });
  const arrivals = new Map(requests.map(({ id, arrival }) => [id, arrival]));
  const arrivalOf = ({ request }: SequenceStateObject) => arrivals.get(request) ?? Number.MAX_SAFE_INTEGER;
  sequences.sort((a, b) => arrivalOf(a) - arrivalOf(b) || a.sample - b.sample);
  return { requests, sequences };
}
