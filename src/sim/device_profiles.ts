// Devices that plans and simulations know by name, and where each figure comes from.
//
// h200 was measured (2026-11-21, one H200, driver 580.159.04, CUDA 13.0): bandwidth by a device-to-device copy, FLOPs by cuBLASLt in
// bf16, the gap by a graph of empty kernels, links by NCCL broadcast on two GPUs and by pinned copies. Its data sheet says 4.8 TB/s and
// 0.989 PFLOP/s; the measured share of that (90% and 76%) is what the other GPUs are given of their own data sheets, and likewise
// the share of the memory that the driver leaves (139.8 GiB of "141 GB"). Kernels per layer are those of Kadenz's decoder plan: norm,
// QKV, rotation with KV write, attention and its merge, output, norm, gate and up, SiLU, down.

import { KadenzError } from '../errors.js';
import type { DeviceProfile } from './cost_model.js';

const GIB = 2 ** 30;
const EFFICIENCY_DEFAULT = 0.75;

const H200: DeviceProfile = {
  name: 'h200',
  source: 'measured',
  memoryBytes: Math.round(139.8 * GIB),
  contextBytes: GIB / 2,
  bandwidthBytesPerSecond: 4.3e12,
  flopsPerSecond: 0.75e15,
  kernelGapUs: 0.6,
  kernelsPerLayer: 10,
  kernelsPerStep: 8,
  efficiency: EFFICIENCY_DEFAULT,
  copyBytesPerSecond: 2.15e12,
  hostBytesPerSecond: 55e9,
  peerBytesPerSecond: 367e9,
};

const H200_SHEET = { memory: 141, bandwidth: 4.8e12, flops: 0.989e15, peer: 900e9 };

/** A GPU of which only the data sheet is known, taken down to what the H200 reaches of its own. */
function fromDataSheet(sheet: {
  name: string;
  memory: number;
  bandwidth: number;
  flops: number;
  peer: number;
  host: number;
}): DeviceProfile {
  const bandwidthShare = sheet.bandwidth / H200_SHEET.bandwidth;
  return {
    ...H200,
    name: sheet.name,
    source: 'data sheet, scaled by what an H200 reaches of its own',
    memoryBytes: Math.round(H200.memoryBytes * (sheet.memory / H200_SHEET.memory)),
    bandwidthBytesPerSecond: H200.bandwidthBytesPerSecond * bandwidthShare,
    flopsPerSecond: H200.flopsPerSecond * (sheet.flops / H200_SHEET.flops),
    copyBytesPerSecond: H200.copyBytesPerSecond * bandwidthShare,
    hostBytesPerSecond: sheet.host,
    peerBytesPerSecond: H200.peerBytesPerSecond! * (sheet.peer / H200_SHEET.peer),
  };
}

/**
 * Kadenz's CPU host on two cores of an AMD EPYC (AVX-512), SmolLM2-135M: FLOPs from 128 sequences that decode, bandwidth from one alone.
 * What lies between its kernels is part of both. docs/simulation.md has the commands and what the profile says of other shapes.
 */
const CPU: DeviceProfile = {
  name: 'cpu',
  source: 'measured, two cores of an AMD EPYC',
  memoryBytes: 8 * GIB,
  contextBytes: 0,
  bandwidthBytesPerSecond: 25e9,
  flopsPerSecond: 0.16e12,
  kernelGapUs: 0,
  kernelsPerLayer: 10,
  kernelsPerStep: 8,
  efficiency: 1,
  copyBytesPerSecond: 12.5e9,
  hostBytesPerSecond: 12.5e9,
  peerBytesPerSecond: null,
};

const PROFILES: readonly DeviceProfile[] = [
  H200,
  fromDataSheet({ name: 'h100', memory: 80, bandwidth: 3.35e12, flops: 0.989e15, peer: 900e9, host: 55e9 }),
  fromDataSheet({ name: 'a100', memory: 80, bandwidth: 2.039e12, flops: 0.312e15, peer: 600e9, host: 25e9 }),
  fromDataSheet({ name: 'b200', memory: 180, bandwidth: 7.7e12, flops: 2.25e15, peer: 1800e9, host: 55e9 }),
  CPU,
];

export const DEVICE_PROFILE_NAMES: readonly string[] = PROFILES.map(({ name }) => name);

/** A copy: the caller may change its efficiency. */
export function deviceProfile(name: string): DeviceProfile {
  const found = PROFILES.find((profile) => profile.name === name);
  if (found !== undefined) return { ...found };
  throw new KadenzError(
    'invalid_argument',
    `There is no device profile '${name}'; Kadenz has ${DEVICE_PROFILE_NAMES.join(', ')}.`,
    { value: name },
  );
}
