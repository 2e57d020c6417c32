// What every benchmark's record says of itself: when, which versions, which machine. Written to bench/results/<name>-<date>.json.
import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { cpus, loadavg, totalmem } from 'node:os';
import { coreSha256 } from '../dist/core/index.js';

function commit() {
  try {
    const options = { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] };
    return execFileSync('git', ['rev-parse', 'HEAD'], options).trim();
  } catch {
    return null;
  }
}

/** `fields`: what was measured, and against which targets. `name` may differ from `benchmark` by what was measured on. */
export async function writeReport(benchmark, { started, name = benchmark, ...fields }) {
  const { version } = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8'));
  const report = {
    benchmark,
    date: started.toISOString(),
    versions: {
      kadenz: version,
      commit: commit(),
      core_sha256: await coreSha256(),
      node: process.version,
      v8: process.versions.v8,
    },
    machine: {
      cpu: cpus()[0].model,
      cores: cpus().length,
      memory_bytes: totalmem(),
      load_1min: loadavg()[0],
      os: `${process.platform} ${process.arch}`,
    },
    ...fields,
  };
  const folder = new URL('results/', import.meta.url);
  mkdirSync(folder, { recursive: true });
  const file = new URL(`${name}-${report.date.slice(0, 10)}.json`, folder);
  writeFileSync(file, `${JSON.stringify(report, null, 2)}\n`);
}
