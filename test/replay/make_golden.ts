// Makes the golden traces (README.md says when, and how to call it).

import { fileURLToPath } from 'node:url';
import { RecordedRun, traceBytes } from './recorded_run.js';
import { SCENARIOS } from './scenarios.js';

export function goldenPath(name: string): string {
  return fileURLToPath(new URL(`golden/${name}.kdz`, import.meta.url));
}

/** The payloads of a scenario's run, made anew. */
export async function makeGolden(name: string): Promise<Uint8Array[]> {
  const { config, make } = SCENARIOS[name]!;
  const run = await RecordedRun.create(config);
  make(run);
  run.end();
  return run.payloads;
}

export async function makeGoldenBytes(name: string): Promise<Buffer> {
  return traceBytes(await makeGolden(name));
}
