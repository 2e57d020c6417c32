// A core that plans otherwise: assembly/ with one change, compiled.

import { execFile } from 'node:child_process';
import { cpSync, mkdtempSync, readFileSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { repositoryPath } from '../house/files.js';

/** @param pattern what is replaced in assembly/`file`; must be found */
export async function coreWith(file: string, pattern: RegExp, replacement: string): Promise<Uint8Array> {
  const folder = mkdtempSync(join(tmpdir(), 'kadenz-core-'));
  try {
    // A link must not be copied as one: what is changed below is the copy.
    cpSync(realpathSync(repositoryPath('assembly')), join(folder, 'assembly'), {
      recursive: true,
      dereference: true,
    });
    const path = join(folder, 'assembly', file);
    const source = readFileSync(path, 'utf8');
    if (!pattern.test(source)) throw new Error(`assembly/${file} has nothing like ${pattern}`);
    writeFileSync(path, source.replace(pattern, replacement));
    const { options } = JSON.parse(readFileSync(repositoryPath('asconfig.json'), 'utf8')) as {
      options: object;
    };
    writeFileSync(join(folder, 'asconfig.json'), JSON.stringify({ options }));
    const compiler = repositoryPath('node_modules/assemblyscript/bin/asc.js');
    const parameters = ['assembly/index.ts', '--config', 'asconfig.json', '--outFile', 'core.wasm'];
    await promisify(execFile)(process.execPath, [compiler, ...parameters], { cwd: folder });
    return new Uint8Array(readFileSync(join(folder, 'core.wasm')));
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
