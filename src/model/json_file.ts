// A JSON object from a file that nobody vouches for: bounded in size, valid UTF-8, no key twice in one object (two readers
// could otherwise see two different models in it).

import { closeSync, fstatSync, openSync, readFileSync } from 'node:fs';
import { KadenzError, type KadenzErrorCode } from '../errors.js';

export type JsonObject = Record<string, unknown>;

const MAX_JSON_BYTES = 64 * 1024 * 1024;

export function isObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** The object in the file, or null when there is no such file. */
export function readJsonFile(path: string, code: KadenzErrorCode): JsonObject | null {
  let descriptor: number;
  try {
    descriptor = openSync(path, 'r');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
    throw new KadenzError('file_unreadable', `Could not open ${path}: ${(error as Error).message}.`, {
      path,
    });
  }
  try {
    const status = fstatSync(descriptor);
    if (!status.isFile())
      throw new KadenzError('file_unreadable', `${path} is not a regular file.`, { path });
    if (status.size > MAX_JSON_BYTES) {
      throw new KadenzError(code, `${path} has ${status.size} bytes; at most ${MAX_JSON_BYTES} are read.`, {
        path,
        value: status.size,
        limit: MAX_JSON_BYTES,
      });
    }
    return parseJsonObject(readFileSync(descriptor), { path, code });
  } finally {
    closeSync(descriptor);
  }
}

export function parseJsonObject(
  bytes: Uint8Array,
  { path, code }: { path: string; code: KadenzErrorCode },
): JsonObject {
  let value: unknown;
  let repeated: string | null;
  try {
    const text = new TextDecoder('utf-8', { fatal: true }).decode(bytes);
    value = JSON.parse(text);
    repeated = repeatedKey(text);
  } catch (error) {
    throw new KadenzError(code, `${path} holds no valid JSON: ${(error as Error).message}.`, { path });
  }
  if (!isObject(value)) throw new KadenzError(code, `${path} holds JSON that is not an object.`, { path });
  if (repeated !== null) {
    throw new KadenzError(code, `${path} has the key '${repeated}' twice in one object.`, {
      path,
      value: repeated,
    });
  }
  return value;
}

/** A key that an object of this (valid) JSON text has twice, or null. */
export function repeatedKey(text: string): string | null {
  const open: (Set<string> | null)[] = []; // a set for each object around the position, null for each array
  const token = /"(?:[^"\\]|\\.)*"|[{}[\]]/gs;
  for (let match = token.exec(text); match !== null; match = token.exec(text)) {
    const [found] = match;
    if (found === '{') open.push(new Set());
    else if (found === '[') open.push(null);
    else if (found === '}' || found === ']') open.pop();
    else {
      const keys = open.at(-1);
      if (!keys || !isFollowedByColon(text, token.lastIndex)) continue;
      const key = JSON.parse(found) as string;
      if (keys.has(key)) return key;
      keys.add(key);
    }
  }
  return null;
}

function isFollowedByColon(text: string, position: number): boolean {
  let next = position;
  while (text[next] === ' ' || text[next] === '\n' || text[next] === '\r' || text[next] === '\t') next += 1;
  return text[next] === ':';
}
