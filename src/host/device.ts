// What `device` may say: where to compute, and on which GPU of several.

import { KadenzError } from '../errors.js';

/** 'cuda' is 'cuda:0'. */
export type Device = 'cpu' | 'cuda' | `cuda:${number}`;

export type DeviceKind = 'cpu' | 'cuda';

export interface DeviceChoice {
  kind: DeviceKind;
  /** Of the GPU, as the driver numbers those that this process may see; 0 for the CPU. */
  index: number;
}

/** Throws unsupported_device. */
export function parseDevice(device: unknown): DeviceChoice {
  if (device === 'cpu') return { kind: 'cpu', index: 0 };
  const found = typeof device === 'string' ? /^cuda(?::(\d{1,3}))?$/.exec(device) : null;
  if (found !== null) return { kind: 'cuda', index: Number(found[1] ?? 0) };
  throw new KadenzError(
    'unsupported_device',
    `device is '${String(device)}'; it must be 'cpu', 'cuda', or 'cuda:1' and so on for one GPU of several.`,
    { value: device },
  );
}

export function deviceName({ kind, index }: DeviceChoice): string {
  return kind === 'cpu' ? 'cpu' : `cuda:${index}`;
}
