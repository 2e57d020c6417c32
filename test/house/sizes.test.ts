import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { filesUnder, repositoryPath } from './files.js';

const MAX_LINES = 400;
const SOURCES = /\.(ts|mts|mjs|js|cc|h|cu|cuh|py|fbs|sh)$/;

const sources = filesUnder('.', SOURCES);

describe('a source file', () => {
  it(`has at most ${MAX_LINES} lines`, () => {
    expect(sources.length).toBeGreaterThan(50);
    const long = sources
      .map((path) => ({ path, lines: readFileSync(repositoryPath(path), 'utf8').split('\n').length - 1 }))
      .filter(({ lines }) => lines > MAX_LINES);
    expect(long).toEqual([]);
  });

  it('of src/ and assembly/, a header of native/ and a CUDA file open with a comment on what they are for', () => {
    const opens = (path: string): boolean =>
      /^(#!.*\n)?(\/\/|\/\*|#pragma once\n+\/\/)/.test(readFileSync(repositoryPath(path), 'utf8'));
    /** rows.cu is told about in rows.h. */
    const hasHeader = (path: string): boolean =>
      path.endsWith('.cu') && sources.includes(path.replace(/\.cu$/, '.h'));
    const silent = sources
      .filter((path) => /^(src|assembly)\/.*\.ts$|^native\/.*\.(h|cu|cuh)$/.test(path))
      .filter((path) => !opens(path) && !hasHeader(path));
    expect(silent).toEqual([]);
  });
});
