// Runs all tests after a build: vitest (test/**/*.test.ts), then each program in build/native/test. The last line is
// `N passed, N failed` over all of them, and the exit code says the same. Arguments go to vitest (`npm test -- test/wire`); then
// the native programs are left out.

import { spawnSync } from 'node:child_process';
import {
  accessSync,
  constants,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
} from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';

const repository = join(dirname(fileURLToPath(import.meta.url)), '..');
const nativeTests = join(repository, 'build/native/test');
const report = join(repository, 'build/test/vitest.json');

/** A run that ended badly without naming a failed test counts as one: nothing is lost on the way to the last line. */
function atLeastOneFailure({ passed, failed }, what) {
  if (failed > 0) return { passed, failed };
  console.error(`${what} ended badly, though no test of it failed`);
  return { passed, failed: 1 };
}

function runVitest(args) {
  mkdirSync(dirname(report), { recursive: true });
  rmSync(report, { force: true });
  const { status } = spawnSync(
    process.execPath,
    [
      join(repository, 'node_modules/vitest/vitest.mjs'),
      ...['run', '--reporter=default', '--reporter=json', `--outputFile.json=${report}`],
      ...args,
    ],
    { stdio: 'inherit', cwd: repository },
  );
  const counts = { passed: 0, failed: 0 };
  if (existsSync(report)) {
    const { numPassedTests, numFailedTests, testResults } = JSON.parse(readFileSync(report, 'utf8'));
    counts.passed = numPassedTests;
    counts.failed = numFailedTests;
    // A file that could not even be loaded has failed, and has no tests to show for it.
    counts.failed += testResults.filter(
      (file) => file.status === 'failed' && file.assertionResults.length === 0,
    ).length;
  }
  return status === 0 && counts.passed > 0 ? counts : atLeastOneFailure(counts, 'vitest');
}

function isProgram(path) {
  try {
    accessSync(path, constants.X_OK);
    return statSync(path).isFile();
  } catch {
    return false;
  }
}

/** The program prints its own sentences; its last line is `N passed, N failed`. */
function runProgram(path) {
  const { status, stdout, error } = spawnSync(path, {
    encoding: 'utf8',
    maxBuffer: 2 ** 28,
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  process.stdout.write(stdout ?? '');
  if (error !== undefined) console.error(error.message);
  const [, passed, failed] = /(\d+) passed, (\d+) failed\s*$/.exec(stdout ?? '') ?? [null, 0, 0];
  const counts = { passed: Number(passed), failed: Number(failed) };
  return status === 0 && counts.passed > 0 ? counts : atLeastOneFailure(counts, relative(repository, path));
}

function nativePrograms() {
  const programs = existsSync(nativeTests)
    ? readdirSync(nativeTests)
        .sort()
        .map((name) => join(nativeTests, name))
        .filter(isProgram)
    : [];
  if (programs.length === 0)
    console.error('build/native/test has no test programs; run `npm run build` first');
  return programs;
}

const args = process.argv.slice(2);
const runs = [runVitest(args)];
if (args.length === 0) {
  const programs = nativePrograms();
  runs.push(...programs.map(runProgram));
  if (programs.length === 0) runs.push({ passed: 0, failed: 1 });
}
const passed = runs.reduce((sum, run) => sum + run.passed, 0);
const failed = runs.reduce((sum, run) => sum + run.failed, 0);
console.log(`${passed} passed, ${failed} failed`);
process.exitCode = failed === 0 ? 0 : 1;
