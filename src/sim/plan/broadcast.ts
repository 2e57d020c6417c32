// How long new weights take from the trainer into every replica.
//
// Within a machine the rates are those of the device profile: a copy on the same GPU, a broadcast over the GPUs' own links (a ring or
// a switch: as fast for eight as for two), or each GPU reading pinned host memory by its own link. Past one machine the weights go over a
// network in chunks, and each machine passes a chunk on as soon as it has it:
//
//   chain        every machine sends to the next one:      (bytes + (machines - 1) x chunk) / bandwidth
//   binary tree  every machine sends to two others:        2 x (bytes + depth x chunk) / bandwidth
//
// whichever is faster; then the last chunk goes through the machine. The trainer sends from one place and full bandwidth is assumed on
// every link at once. Not in it: preparing the weights, loading them into place, latency below a chunk's time.

import type { DeviceProfile } from '../cost_model.js';

export interface WeightsLink {
  local: 'same-gpu' | 'nvlink' | 'pcie';
  /** Of one machine's network, each way. */
  networkBytesPerSecond: number;
}

export interface BroadcastPlan {
  timeUs: number;
  machines: number;
  /** For people: by which way. */
  way: string;
}

const CHUNK_BYTES = 16 * 2 ** 20;

export function planBroadcast(
  device: DeviceProfile,
  { local, networkBytesPerSecond }: WeightsLink,
  {
    weightBytes,
    replicas,
    gpusPerMachine,
  }: { weightBytes: number; replicas: number; gpusPerMachine: number },
): BroadcastPlan {
  const rate = localRate(device, local);
  const machines = Math.ceil(replicas / gpusPerMachine);
  const chunk = Math.min(CHUNK_BYTES, weightBytes);
  if (machines === 1)
    return { timeUs: Math.round((weightBytes / rate) * 1e6), machines, way: localName(device, local) };
  let depth = 0;
  for (let reached = 1; reached < machines; reached = 2 * reached + 1) depth += 1;
  const chain = weightBytes + (machines - 1) * chunk;
  const tree = 2 * (weightBytes + depth * chunk);
  const network = Math.min(chain, tree) / networkBytesPerSecond;
  // Within the machine the chunks follow as they come, unless that is the slower part.
  const inside = Math.max(chunk / rate, weightBytes / rate - network);
  const shape = chain <= tree ? `a chain of ${machines} machines` : `a binary tree of depth ${depth}`;
  const way = `${shape} at ${networkBytesPerSecond / 1e9} GB/s, then ${localName(device, local)}`;
  return { timeUs: Math.round((network + inside) * 1e6), machines, way };
}

function localRate(device: DeviceProfile, local: WeightsLink['local']): number {
  if (local === 'same-gpu') return device.copyBytesPerSecond;
  // Without a link of their own the devices read what lies in the host's memory.
  return local === 'nvlink'
    ? (device.peerBytesPerSecond ?? device.hostBytesPerSecond)
    : device.hostBytesPerSecond;
}

function localName({ peerBytesPerSecond }: DeviceProfile, local: WeightsLink['local']): string {
  if (local === 'same-gpu') return 'a copy on the same device';
  return local === 'nvlink' && peerBytesPerSecond !== null ? 'NVLink' : 'the memory of the host';
}
