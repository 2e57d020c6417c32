import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { ERROR_CODES, errorFromWire, KadenzError, wireErrorName } from '../../src/errors.js';
import { ErrorCode } from '../../src/generated/index.js';
import { filesUnder, repositoryPath } from './files.js';

const documented = Array.from(
  readFileSync(repositoryPath('docs/errors.md'), 'utf8').matchAll(/^\| `([a-z_]+)` \| (.+) \|$/gm),
  ([, code]) => code!,
);

describe('the codes of errors', () => {
  it('are documented in docs/errors.md, each once and in the same order', () => {
    expect(documented).toEqual([...ERROR_CODES.keys()]);
  });

  it('have the names and numbers of schemas/types.fbs, all of them', () => {
    const onTheWire = Object.entries(ErrorCode).filter(
      (entry): entry is [string, number] => typeof entry[1] === 'number' && entry[0] !== 'none',
    );
    const ours = [...ERROR_CODES].filter(([, number]) => number !== undefined);
    expect(Object.fromEntries(ours)).toEqual(Object.fromEntries(onTheWire));
    expect(wireErrorName(0)).toBeUndefined();
  });

  it('are the only ones that the native sources raise', () => {
    const raised = filesUnder('native', /\.(cc|h)$/).flatMap((path) =>
      Array.from(
        readFileSync(repositoryPath(path), 'utf8').matchAll(/\bHostError\(\s*"([a-z_]+)"/g),
        ([, code]) => code!,
      ),
    );
    expect(raised.length).toBeGreaterThan(0);
    expect([...new Set(raised)].filter((code) => !ERROR_CODES.has(code as never)).sort()).toEqual([]);
  });

  it('of the wire all make a sentence that ends, names the request and does not say "undefined"', () => {
    for (const [code, number] of ERROR_CODES) {
      if (number === undefined) continue;
      const error = errorFromWire(number, { value: 3, limit: 2, request: 17 });
      expect(error).toBeInstanceOf(KadenzError);
      expect(error.code).toBe(code);
      expect(error.message).toMatch(/^Request 17: .{20,}\.$/);
      expect(error.message).not.toMatch(/undefined|null/);
    }
  });

  it('that this version does not know are a broken invariant, not a KadenzError', () => {
    expect(() => errorFromWire(999)).toThrow('error code 999');
    expect(() => errorFromWire(999)).not.toThrow(KadenzError);
  });
});
