// Builds the native host and its tests with cmake-js: build/native/Release/kadenz.node, build/native/test/native_tests.
// Needs cmake (3.20 or newer) and a C++20 compiler; downloads nothing (the headers are node-api-headers').
// Where nvcc is found, also the CUDA library build/native/Release/kadenz_cuda.so; KADENZ_CUDA_ARCHITECTURES=90a-real builds it for
// one kind of GPU only, KADENZ_CUDA=OFF not at all. A library of an earlier build is never left beside a newer addon.
// Does nothing when sources, nvcc, those two variables and the outputs are as the last build left them. `--force` builds anyway.

import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';

const repository = join(dirname(fileURLToPath(import.meta.url)), '..');
const sourceFolder = join(repository, 'native');
const buildFolder = join(repository, 'build/native');
const addonPath = join(buildFolder, 'Release/kadenz.node');
const pluginPath = join(buildFolder, 'Release/kadenz_cuda.so');
const stampPath = join(buildFolder, '.stamp');

// Every build says both, or CMake would go on with what an earlier one said. native/cuda/sources.cmake knows `default`.
const cuda = process.env.KADENZ_CUDA ?? 'ON';
const cudaArchitectures = process.env.KADENZ_CUDA_ARCHITECTURES || 'default';

function fail(sentence) {
  console.error(`build_native: ${sentence}`);
  process.exit(1);
}

/** What `command --version` prints, or null when there is no such command. */
function versionOf(command) {
  const { status, stdout } = spawnSync(command, ['--version'], { encoding: 'utf8' });
  return status === 0 ? stdout.trim() : null;
}

/** The version of the nvcc that CMake will find, or null where the CUDA library is not built. */
function versionOfNvcc() {
  if (!['ON', 'OFF'].includes(cuda)) fail(`KADENZ_CUDA is ${JSON.stringify(cuda)}; it may be ON or OFF.`);
  if (cuda === 'OFF') return null;
  const { CUDACXX, CUDA_PATH } = process.env;
  const commands = CUDACXX ? [CUDACXX] : ['nvcc', ...(CUDA_PATH ? [join(CUDA_PATH, 'bin/nvcc')] : [])];
  return commands.map(versionOf).find((version) => version !== null) ?? null;
}

function requireTools() {
  const cmake = versionOf('cmake')?.split('\n')[0] ?? null;
  if (cmake === null)
    fail('cmake was not found. Install cmake 3.20 or newer (Debian: apt-get install cmake).');
  const [major, minor] = (/(\d+)\.(\d+)/.exec(cmake) ?? [0, 0, 0]).slice(1).map(Number);
  if (major < 3 || (major === 3 && minor < 20)) fail(`${cmake} is too old; version 3.20 or newer is needed.`);
  const compilers = process.env.CXX ? [process.env.CXX] : ['g++', 'clang++'];
  if (compilers.map(versionOf).every((version) => version === null)) {
    fail(
      `no C++ compiler was found (tried ${compilers.join(', ')}). Install one (Debian: apt-get install g++), or set CXX.`,
    );
  }
}

/** Of everything that a build depends on. */
function digestOfInputs(nvcc) {
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
  return hash.update(JSON.stringify({ cuda, cudaArchitectures, nvcc })).digest('hex');
}

if (!existsSync(join(sourceFolder, 'generated/instruction_generated.h'))) {
  fail('native/generated is missing; run `npm run generate` first.');
}
const nvcc = versionOfNvcc();
const outputs = nvcc === null ? [addonPath] : [addonPath, pluginPath];
const digest = digestOfInputs(nvcc);
const stamp = existsSync(stampPath) ? readFileSync(stampPath, 'utf8') : '';
if (stamp !== digest || !outputs.every(existsSync) || process.argv.includes('--force')) {
  requireTools();
  mkdirSync(buildFolder, { recursive: true });
  if (nvcc === null) rmSync(pluginPath, { force: true });
  const cmakeJs = createRequire(import.meta.url).resolve('cmake-js/bin/cmake-js');
  const options = [
    ...['-d', sourceFolder, '-O', buildFolder, '-B', 'Release', '-p', '2', '-l', 'warn'],
    ...[`--CDKADENZ_CUDA=${cuda}`, `--CDKADENZ_CUDA_ARCHITECTURES=${cudaArchitectures}`],
  ];
  // Configuring each time costs a second and picks up new files and changed paths. Ninja is used where there is one.
  // The addon comes first: it is wanted even where a test doesn't compile.
  for (const command of [['configure'], ['build', '-T', 'kadenz'], ['build']]) {
    const run = spawnSync(process.execPath, [cmakeJs, ...command, ...options], {
      stdio: 'inherit',
      cwd: repository,
    });
    if (run.status !== 0) fail(`cmake-js ${command.join(' ')} failed; its messages are above.`);
  }
  const missing = outputs.find((path) => !existsSync(path));
  if (missing !== undefined) fail(`the build ended well but made no ${relative(repository, missing)}.`);
  writeFileSync(stampPath, digest);
}
