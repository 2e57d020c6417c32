// Builds another core than the one in build/: assembly/ in a temporary folder, with pieces of its text replaced.

import { cpSync, mkdtempSync, readFileSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import asc from 'assemblyscript/asc';

export interface Change {
  /** Below assembly/. */
  file: string;
  from: string;
  to: string;
}

const REPOSITORY = fileURLToPath(new URL('../..', import.meta.url));

/** The WebAssembly of the core with these changes. Throws when a text to be replaced is not there exactly once. */
export async function buildChangedCore(changes: readonly Change[]): Promise<Uint8Array> {
  const folder = mkdtempSync(join(tmpdir(), 'kadenz-planted-'));
  try {
    // Through links, so that nothing but the copy can be changed.
    cpSync(realpathSync(join(REPOSITORY, 'assembly')), join(folder, 'assembly'), {
      recursive: true,
      dereference: true,
    });
    cpSync(join(REPOSITORY, 'asconfig.json'), join(folder, 'asconfig.json'));
    for (const { file, from, to } of changes) {
      const path = join(folder, 'assembly', file);
      const text = readFileSync(path, 'utf8');
      const places = text.split(from).length - 1;
      if (places !== 1) throw new Error(`assembly/${file} has '${from}' ${places} times, not once`);
      writeFileSync(
        path,
        text.replace(from, () => to),
      );
    }
    const { error, stderr } = await asc.main([
      'assembly/index.ts',
      ...['--baseDir', folder, '--config', 'asconfig.json', '--target', 'release'],
      ...['--outFile', 'core.wasm', '--textFile', 'core.wat'],
    ]);
    if (error) throw new Error(`${error.message}\n${stderr.toString()}`);
    return new Uint8Array(readFileSync(join(folder, 'core.wasm')));
  } finally {
    rmSync(folder, { recursive: true });
  }
}
