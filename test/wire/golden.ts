// The golden files: messages as they have been on the wire since the schema was fixed. README.md says how to renew them.

import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { expect } from 'vitest';

const UPDATE = process.env.KADENZ_UPDATE_GOLDEN === '1';

/** Expects `bytes` to be what golden/<name>.bin holds; writes it instead when the golden files are being renewed. */
export function expectGolden(name: string, bytes: Uint8Array): void {
  const path = fileURLToPath(new URL(`golden/${name}.bin`, import.meta.url));
  if (UPDATE) writeFileSync(path, bytes);
  if (!existsSync(path))
    throw new Error(`there is no golden message ${name}; test/wire/README.md says how to make it`);
  expect(Buffer.from(bytes).toString('hex'), name).toBe(readFileSync(path).toString('hex'));
}
