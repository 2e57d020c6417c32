// The header of a safetensors file: names, dtypes, shapes and byte ranges. Headers only, the tensors stay unread. Nothing
// in the file is trusted: lengths are held against the file's real size, products are made in BigInt, and ranges must
// cover the data without gap or overlap, as the format demands.

import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import { KadenzError } from '../errors.js';
import { isObject, parseJsonObject } from './json_file.js';

/** As the file says it; `beginBytes` and `endBytes` count from the start of the file. */
export interface StoredTensor {
  name: string;
  dtype: string;
  shape: number[];
  beginBytes: number;
  endBytes: number;
}

export interface SafetensorsFile {
  path: string;
  sizeBytes: number;
  tensors: StoredTensor[];
}

const LENGTH_BYTES = 8;
const MAX_HEADER_BYTES = 100_000_000;
const MAX_DIMENSIONS = 16;

/** Bits of an element. A dtype that is not here can't be checked; a model that needs it is refused later, by name. */
const DTYPE_BITS: ReadonlyMap<string, bigint> = new Map(
  Object.entries({
    BOOL: 8n,
    U8: 8n,
    I8: 8n,
    F8_E4M3: 8n,
    F8_E5M2: 8n,
    F8_E8M0: 8n,
    U16: 16n,
    I16: 16n,
    F16: 16n,
    BF16: 16n,
  }).concat(
    Object.entries({
      U32: 32n,
      I32: 32n,
      F32: 32n,
      U64: 64n,
      I64: 64n,
      F64: 64n,
      C64: 64n,
      F4: 4n,
      F6_E2M3: 6n,
      F6_E3M2: 6n,
    }),
  ),
);

/** Throws invalid_safetensors, file_truncated or file_unreadable. */
export function readSafetensorsHeader(path: string): SafetensorsFile {
  let descriptor: number;
  try {
    descriptor = openSync(path, 'r');
  } catch (error) {
    throw new KadenzError('file_unreadable', `Could not open ${path}: ${(error as Error).message}.`, {
      path,
    });
  }
  try {
    const status = fstatSync(descriptor);
    if (!status.isFile())
      throw new KadenzError('file_unreadable', `${path} is not a regular file.`, { path });
    const header = readHeader(descriptor, path, status.size);
    const dataStart = LENGTH_BYTES + header.length;
    return {
      path,
      sizeBytes: status.size,
      tensors: readTensors(header, { path, dataStart, dataBytes: status.size - dataStart }),
    };
  } finally {
    closeSync(descriptor);
  }
}

function refuse(
  path: string,
  what: string,
  details: { tensor?: string; value?: unknown; limit?: unknown } = {},
): never {
  throw new KadenzError('invalid_safetensors', `${path} is no valid safetensors file: ${what}.`, {
    path,
    ...details,
  });
}

function readHeader(descriptor: number, path: string, sizeBytes: number): Uint8Array {
  if (sizeBytes < LENGTH_BYTES)
    refuse(path, `it has ${sizeBytes} bytes, fewer than the length of its header takes`);
  const length = readExactly(descriptor, path, { position: 0, length: LENGTH_BYTES }).readBigUInt64LE(0);
  const room = sizeBytes - LENGTH_BYTES;
  if (length > BigInt(MAX_HEADER_BYTES)) {
    refuse(path, `its header claims ${length} bytes; at most ${MAX_HEADER_BYTES} are read`, {
      value: String(length),
      limit: MAX_HEADER_BYTES,
    });
  }
  if (length > BigInt(room)) {
    throw new KadenzError(
      'file_truncated',
      `${path} is cut off: its header claims ${length} bytes, and ${room} follow.`,
      {
        path,
        value: Number(length),
        limit: room,
      },
    );
  }
  return readExactly(descriptor, path, { position: LENGTH_BYTES, length: Number(length) });
}

function readExactly(
  descriptor: number,
  path: string,
  { position, length }: { position: number; length: number },
): Buffer {
  const bytes = Buffer.alloc(length);
  for (let done = 0; done < length; ) {
    const count = readSync(descriptor, bytes, done, length - done, position + done);
    if (count === 0)
      throw new KadenzError('file_truncated', `${path} became shorter while it was read.`, { path });
    done += count;
  }
  return bytes;
}

interface DataSection {
  path: string;
  dataStart: number;
  dataBytes: number;
}

function readTensors(header: Uint8Array, section: DataSection): StoredTensor[] {
  const { path, dataStart, dataBytes } = section;
  const entries = Object.entries(parseJsonObject(header, { path, code: 'invalid_safetensors' }));
  const tensors = entries
    .filter(([name]) => name !== '__metadata__')
    .map(([name, entry]) => readTensor(name, entry, section));
  // Empty tensors first where ranges begin together, so that they don't look like an overlap.
  tensors.sort((a, b) => a.beginBytes - b.beginBytes || a.endBytes - b.endBytes);
  let end = dataStart;
  for (const { name, beginBytes, endBytes } of tensors) {
    if (beginBytes < end) refuse(path, `tensor ${name} overlaps the one before it`, { tensor: name });
    if (beginBytes > end)
      refuse(path, `${beginBytes - end} bytes before tensor ${name} belong to none`, { tensor: name });
    end = endBytes;
  }
  const rest = dataStart + dataBytes - end;
  if (rest > 0) refuse(path, `the last ${rest} bytes belong to no tensor`);
  return tensors;
}

function readTensor(name: string, entry: unknown, { path, dataStart, dataBytes }: DataSection): StoredTensor {
  if (!isObject(entry)) return refuse(path, `the entry of tensor ${name} is no object`, { tensor: name });
  const { dtype, shape, data_offsets: offsets } = entry;
  if (typeof dtype !== 'string') return refuse(path, `tensor ${name} has no dtype`, { tensor: name });
  if (!isSizes(shape) || shape.length > MAX_DIMENSIONS) {
    return refuse(path, `tensor ${name} has a shape that is no list of up to ${MAX_DIMENSIONS} sizes`, {
      tensor: name,
      value: shape,
    });
  }
  if (!isSizes(offsets) || offsets.length !== 2) {
    return refuse(path, `tensor ${name} has data_offsets that are no two positions`, {
      tensor: name,
      value: offsets,
    });
  }
  const [begin, end] = offsets as [number, number];
  if (begin > end)
    refuse(path, `tensor ${name} ends at ${end}, before it begins at ${begin}`, { tensor: name });
  if (end > dataBytes) {
    throw new KadenzError(
      'file_truncated',
      `${path} is cut off: tensor ${name} ends at byte ${end} of the data, which has ${dataBytes} bytes.`,
      { path, tensor: name, value: end, limit: dataBytes },
    );
  }
  const bits = DTYPE_BITS.get(dtype);
  if (bits !== undefined) {
    const needed = shape.reduce((product, size) => product * BigInt(size), bits);
    if (needed !== BigInt(end - begin) * 8n) {
      refuse(
        path,
        `tensor ${name} of dtype ${dtype} and shape [${shape.join(', ')}] can't have ${end - begin} bytes`,
        {
          tensor: name,
          value: end - begin,
        },
      );
    }
  }
  return { name, dtype, shape, beginBytes: dataStart + begin, endBytes: dataStart + end };
}

function isSizes(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((size) => Number.isSafeInteger(size) && size >= 0);
}
