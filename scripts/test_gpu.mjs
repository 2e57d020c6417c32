// npm run test:gpu — everything that needs an NVIDIA GPU: the native tests (cuda_tests, cuda_fault_tests), test/gpu by vitest, and compute-sanitizer's
// memcheck, racecheck and initcheck over a small generate. The last line is `N passed, N failed`; the exit code says the same.
//
//   node scripts/test_gpu.mjs [--no-sanitizer] [--only native,vitest,sanitizer] [test/gpu/some.test.ts ...]
//
// The native tests are built where cmake is found; KADENZ_CUDA_TESTS names built ones, with colons between them. Paths narrow vitest. What is
// not found (compute-sanitizer, or the native tests and what builds them) counts as one failure: nothing is passed over in silence.

import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { probeHost } from '../dist/index.js';

const repository = join(dirname(fileURLToPath(import.meta.url)), '..');
const buildFolder = join(repository, 'build/native');
const report = join(repository, 'build/test/vitest-gpu.json');

/** The second breaks its CUDA context on purpose, so it is a program of its own. */
const CUDA_PROGRAMS = ['cuda_tests', 'cuda_fault_tests'];

/**
 * memcheck sees a model whose matmuls are cuBLASLt's. initcheck reports reads of what those wrote, as if nobody had, and racecheck needs many
 * minutes for them: both see a model of odd sizes, whose matmuls are all our own. initcheck gets one sample of each prompt: a second one begins
 * with a copy of a whole KV block, of which nobody reads the positions that nobody has written.
 */
const SANITIZER_RUNS = {
  memcheck: { model: 'arithmetic', n: 2 },
  racecheck: { model: 'odd', n: 2 },
  initcheck: { model: 'odd', n: 1 },
};
/** compute-sanitizer ends with it where it found something. */
const SANITIZER_EXIT_CODE = 86;
/** Few slots and blocks: prefill, decode and both ways to sample, some hundred times slower than without the sanitizer. */
const SMALL_GENERATE = [
  ...[join(repository, 'dist/cli/main.js'), 'generate', '--device', 'cuda', '--prompts', '-'],
  ...['--max-num-seqs', '8', '--kv-cache-blocks', '64', '--max-tokens', '24'],
];
const NUM_SMALL_PROMPTS = 3;
const smallPrompts = (n) => [
  { prompt_token_ids: [288, 270, 223, 21, 223, 13, 223, 22, 33], sampling: { n, ignore_eos: true } },
  { prompt_token_ids: [288, 270, 33], sampling: { temperature: 0 } },
  {
    prompt_token_ids: [5, 6, 7],
    sampling: { top_p: 0.8, top_k: 5, presence_penalty: 0.5, ignore_eos: true },
  },
];

const failure = (sentence) => {
  console.error(`test:gpu: ${sentence}`);
  return { passed: 0, failed: 1 };
};

/** A run that ended badly without naming a failed test counts as one. */
function judged({ passed, failed }, status, what) {
  if (failed === 0 && (status !== 0 || passed === 0))
    return { passed, failed: failure(`${what} ended badly.`).failed };
  return { passed, failed };
}

function isThere(command) {
  return spawnSync(command, ['--version'], { stdio: 'ignore' }).status === 0;
}

/** Paths of what is to run, given or built; null where neither goes. */
function cudaPrograms() {
  const given = process.env.KADENZ_CUDA_TESTS;
  if (given !== undefined) return given.split(':');
  if (!isThere('cmake') || !existsSync(join(buildFolder, 'CMakeCache.txt'))) return null;
  const build = ['--build', buildFolder, '-j', '2', ...CUDA_PROGRAMS.flatMap((name) => ['-t', name])];
  if (spawnSync('cmake', build, { stdio: 'inherit' }).status !== 0) return null;
  return CUDA_PROGRAMS.map((name) => join(buildFolder, 'cuda', name));
}

/** The program prints its own sentences; its last line is `N passed, N failed`. */
function runProgram(program) {
  const options = { encoding: 'utf8', maxBuffer: 2 ** 28, stdio: ['ignore', 'pipe', 'inherit'] };
  const { status, stdout, error } = spawnSync(program, options);
  process.stdout.write(stdout ?? '');
  if (error !== undefined) return failure(error.message);
  const [, passed, failed] = /(\d+) passed, (\d+) failed\s*$/.exec(stdout) ?? [null, 0, 0];
  return judged({ passed: Number(passed), failed: Number(failed) }, status, program);
}

function runCudaPrograms() {
  const programs = cudaPrograms();
  if (programs !== null) return programs.map(runProgram);
  return [
    failure(
      'the native tests can not be built here: run `npm run build` where cmake and nvcc are, or name built ones by KADENZ_CUDA_TESTS.',
    ),
  ];
}

function runVitest(paths) {
  mkdirSync(dirname(report), { recursive: true });
  rmSync(report, { force: true });
  const reporters = ['--reporter=default', '--reporter=json', `--outputFile.json=${report}`];
  const vitest = join(repository, 'node_modules/vitest/vitest.mjs');
  const { status } = spawnSync(
    process.execPath,
    [vitest, 'run', '--config', 'vitest.gpu.config.ts', ...reporters, ...paths],
    { stdio: 'inherit', cwd: repository },
  );
  if (!existsSync(report)) return failure('vitest left no report.');
  const { numPassedTests, numFailedTests, testResults } = JSON.parse(readFileSync(report, 'utf8'));
  // A file whose preparation failed has failed, and may have no failed test to show for it.
  const lost = testResults.filter(
    ({ status, assertionResults }) =>
      status === 'failed' && assertionResults.every((one) => one.status !== 'failed'),
  );
  return judged({ passed: numPassedTests, failed: numFailedTests + lost.length }, status, 'vitest');
}

/** Clean: the program's own exit code is 0, every summary says 0, and there is at least one. */
async function runSanitizer(tool, model, n) {
  const args = [
    ...['--tool', tool, '--target-processes', 'all', '--error-exitcode', String(SANITIZER_EXIT_CODE)],
    ...[process.execPath, ...SMALL_GENERATE, '--model', model],
  ];
  const lines = smallPrompts(n).map((line) => JSON.stringify(line));
  const { status, said } = await outputOf('compute-sanitizer', args, lines.join('\n'));
  const summaries = [...said.matchAll(/(?:ERROR|RACECHECK) SUMMARY: (\d+)/g)].map(([, count]) =>
    Number(count),
  );
  const answers = said.split('\n').filter((line) => /"token_ids":\[\d/.test(line)).length;
  const isClean = summaries.length > 0 && summaries.every((count) => count === 0);
  if (status === 0 && answers === NUM_SMALL_PROMPTS && isClean) {
    console.log(`compute-sanitizer ${tool}: clean`);
    return { passed: 1, failed: 0 };
  }
  console.error(said.length > 8000 ? `${said.slice(0, 6000)}\n...\n${said.slice(-2000)}` : said);
  return failure(`compute-sanitizer ${tool} is not clean, or its generate failed (it ended with ${status}).`);
}

/** `said` is all that it wrote. */
function outputOf(command, args, input) {
  return new Promise((resolve) => {
    const child = spawn(command, args, { cwd: repository });
    let said = '';
    const hear = (text) => {
      said += text;
    };
    child.stdout.setEncoding('utf8').on('data', hear);
    child.stderr.setEncoding('utf8').on('data', hear);
    child.on('error', ({ message }) => resolve({ status: message, said }));
    child.on('close', (code, signal) => resolve({ status: code ?? signal, said }));
    child.stdin.end(input);
  });
}

/** Side by side: each is slow by itself, and none of them minds the others. */
async function runSanitizers() {
  if (!isThere('compute-sanitizer')) {
    return [
      failure(
        'compute-sanitizer was not found (it comes with the CUDA toolkit); --no-sanitizer leaves it out.',
      ),
    ];
  }
  const odd = mkdtempSync(join(tmpdir(), 'kadenz-odd-'));
  try {
    const python = process.env.KADENZ_PYTHON ?? 'python3';
    const make = [join(repository, 'bench/gpu/make_model.py'), 'odd', odd];
    if (spawnSync(python, make, { stdio: 'inherit' }).status !== 0)
      return [failure('bench/gpu/make_model.py failed.')];
    const models = { arithmetic: join(repository, 'models/arithmetic'), odd };
    const tools = Object.entries(SANITIZER_RUNS);
    return await Promise.all(tools.map(([tool, { model, n }]) => runSanitizer(tool, models[model], n)));
  } finally {
    rmSync(odd, { recursive: true });
  }
}

const { values: flags, positionals } = parseArgs({
  allowPositionals: true,
  options: { sanitizer: { type: 'boolean', default: true }, only: { type: 'string' } },
  allowNegative: true,
});
const parts = flags.only?.split(',') ?? ['native', 'vitest', 'sanitizer'];
const { usable, problems } = probeHost({ certify: false });
if (!usable) {
  console.error(`test:gpu needs a GPU. ${problems.map(({ sentence }) => sentence).join(' ')}`);
  process.exit(1);
}
const runs = [];
if (parts.includes('native')) runs.push(...runCudaPrograms());
if (parts.includes('vitest')) runs.push(runVitest(positionals));
if (parts.includes('sanitizer') && flags.sanitizer) runs.push(...(await runSanitizers()));
const passed = runs.reduce((sum, run) => sum + run.passed, 0);
const failed = runs.reduce((sum, run) => sum + run.failed, 0);
console.log(`${passed} passed, ${failed} failed`);
process.exitCode = failed === 0 && passed > 0 ? 0 : 1;
