// The repository's own source files, for tests that read them.

import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const SKIPPED = new Set(['node_modules', 'generated', 'dist', 'build', '.cache', '.git', '__pycache__']);

export function repositoryPath(path: string): string {
  return join(ROOT, path);
}

/** Paths below the repository, sorted, without what is generated, installed or built. */
export function filesUnder(folder: string, pattern: RegExp): string[] {
  return readdirSync(repositoryPath(folder), { withFileTypes: true })
    .sort((a, b) => (a.name < b.name ? -1 : 1))
    .flatMap((entry) => {
      const path = folder === '.' ? entry.name : `${folder}/${entry.name}`;
      if (entry.isDirectory()) {
        return SKIPPED.has(entry.name) || entry.name.startsWith('.venv') ? [] : filesUnder(path, pattern);
      }
      return entry.isFile() && pattern.test(path) ? [path] : [];
    });
}
