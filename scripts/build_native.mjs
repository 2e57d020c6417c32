// Builds the native host and its tests with cmake-js: build/native/Release/kadenz.node, build/native/test/native_tests.
// Needs cmake (3.20 or newer) and a C++20 compiler; downloads nothing (the headers are node-api-headers').
// Where nvcc is found, also the CUDA library build/native/Release/kadenz_cuda.so; KADENZ_CUDA_ARCHITECTURES=90a-real builds it for
// one kind of GPU only, KADENZ_CUDA=OFF not at all.
// Does nothing when sources, tools and outputs are as the last build left them. `--force` builds anyway.

import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';

const repository = join(dirname(fileURLToPath(import.meta.url)), '..');
const sourceFolder = join(repository, 'native');
const buildFolder = join(repository, 'build/native');
const addonPath = join(buildFolder, 'Release/kadenz.node');
const stampPath = join(buildFolder, '.stamp');

function fail(sentence) {
  console.error(`build_native: ${sentence}`);
  process.exit(1);
}

/** The first line that `command --version` prints, or null when there is no such command. */
function versionOf(command) {
  const { status, stdout } = spawnSync(command, ['--version'], { encoding: 'utf8' });
  return status === 0 ? stdout.split('\n')[0] : null;
}

function requireTools() {
  const cmake = versionOf('cmake');
  if (cmake === null)
    fail('cmake was not found. Install cmake 3.20 or newer (Debian: apt-get install cmake).');
  const [major, minor] = (/(\d+)\.(\d+)/.exec(cmake) ?? [0, 0, 0]).slice(1).map(Number);
  if (major < 3 || (major === 3 && minor < 20)) fail(`${cmake} is too old; version 3.20 or newer is needed.`);
  const compilers = process.env.CXX ? [process.env.CXX] : ['g++', 'clang++'];
  const compiler = compilers.map(versionOf).find((version) => version !== null);
  if (compiler === undefined) {
    fail(
      `no C++ compiler was found (tried ${compilers.join(', ')}). Install one (Debian: apt-get install g++), or set CXX.`,
    );
  }
  return { cmake, compiler };
}

function digestOfSources() {
  const hash = createHash('sha256');
  const paths = readdirSync(sourceFolder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && !entry.name.startsWith('.'))
    .map((entry) => join(entry.parentPath, entry.name))
    .sort();
  for (const path of [...paths, fileURLToPath(import.meta.url), join(repository, 'package-lock.json')]) {
    hash
      .update(`${relative(repository, path)}\0`)
      .update(readFileSync(path))
      .update('\0');
  }
  return hash.update(cudaDefinitions().join(' ')).digest('hex');
}

/** What the environment says about the CUDA library, for CMake. */
function cudaDefinitions() {
  return ['KADENZ_CUDA', 'KADENZ_CUDA_ARCHITECTURES']
    .filter((name) => process.env[name] !== undefined)
    .map((name) => `--CD${name}=${process.env[name]}`);
}

if (!existsSync(join(sourceFolder, 'generated/instruction_generated.h'))) {
  fail('native/generated is missing; run `npm run generate` first.');
}
const digest = digestOfSources();
const stamp = existsSync(stampPath) ? readFileSync(stampPath, 'utf8') : '';
if (stamp !== digest || !existsSync(addonPath) || process.argv.includes('--force')) {
  requireTools();
  mkdirSync(buildFolder, { recursive: true });
  const cmakeJs = createRequire(import.meta.url).resolve('cmake-js/bin/cmake-js');
  // Configuring each time costs a second and picks up new files and changed paths. Ninja is used where there is one.
  // The addon comes first: it is wanted even where a test doesn't compile.
  for (const command of [['configure'], ['build', '-T', 'kadenz'], ['build']]) {
    const options = ['-d', sourceFolder, '-O', buildFolder, '-B', 'Release', '-p', '2', '-l', 'warn'];
    const { status } = spawnSync(process.execPath, [cmakeJs, ...command, ...options, ...cudaDefinitions()], {
      stdio: 'inherit',
      cwd: repository,
    });
    if (status !== 0) fail(`cmake-js ${command.join(' ')} failed; its messages are above.`);
  }
  if (!existsSync(addonPath)) fail(`the build ended well but made no ${relative(repository, addonPath)}.`);
  writeFileSync(stampPath, digest);
}
