// kadenz doctor: what this machine offers to compute with, whether a device can be used, and what to do where it can't.

import Table from 'cli-table3';
import type { Command } from 'commander';
import { type GpuDescription, type HostProbe, probeHost } from '../index.js';
import { snakeCase } from '../trace/index.js';

interface DoctorFlags {
  device: string;
  certify: boolean;
  json?: boolean;
}

const EXAMPLES = `
Looks for the CUDA host, the driver, GPUs and cuBLASLt, and lets the GPU multiply: for each algorithm that Kadenz may use, rows computed
alone and among others must have equal bits. What comes out, the certificate, is part of the host's fingerprint in traces.

The exit code is 0 when the device can be used, 1 when it can't. Nothing is changed on the machine.

Examples:
  kadenz doctor
  kadenz doctor --device cuda:1 --json
`;

export function addDoctorCommand(
  program: Command,
  finish: (exitCode: number) => void,
  version: string,
): void {
  program
    .command('doctor')
    .description('what this machine can compute with, and what is missing')
    .option('--device <name>', 'which to look at: cuda, cuda:1 and so on, or cpu', 'cuda')
    .option('--no-certify', "leave out the self-test of the GPU's matmuls, some seconds")
    .option('--json', 'print JSON')
    .addHelpText('after', EXAMPLES)
    .action(({ device, certify, json }: DoctorFlags) => {
      const probe = probeHost({ device, certify });
      const report = { kadenzVersion: version, ...machine(), ...probe };
      process.stdout.write(json ? `${JSON.stringify(inSnakeCase(report))}\n` : doctorInWords(version, probe));
      finish(probe.usable ? 0 : 1);
    });
}

function machine(): { nodeVersion: string; platform: string } {
  return { nodeVersion: process.versions.node, platform: `${process.platform} ${process.arch}` };
}

type Row = [what: string, found: string];

function rowsOf(version: string, { addon, cuda }: HostProbe): Row[] {
  const { nodeVersion, platform } = machine();
  return [
    ['Kadenz', `${version}, Node ${nodeVersion}, ${platform}`],
    ['CPU host', addon.loaded ? 'works' : 'does not work'],
    ...(cuda === null ? [] : cudaRows(cuda)),
  ];
}

/** The CUDA host is who looks for the rest: without it there is nothing more to say. */
function cudaRows({
  plugin,
  driver,
  runtime,
  gpus,
  cublaslt,
  certificate,
}: NonNullable<HostProbe['cuda']>): Row[] {
  if (!plugin.loaded) return [['CUDA host', plugin.problem ?? 'not found']];
  const none = 'not found';
  return [
    ['CUDA host', plugin.path],
    ['driver', driver === undefined ? none : driverInWords(driver)],
    ['CUDA runtime', runtime?.version ?? none],
    ...(gpus.length === 0
      ? ([['GPU', none]] satisfies Row[])
      : gpus.map((gpu): Row => [`cuda:${gpu.index}`, gpuInWords(gpu)])),
    ['cuBLASLt', cublaslt === undefined ? none : `${cublaslt.version}, ${cublaslt.path}`],
    ...(certificate === undefined
      ? ([['certificate', 'none']] satisfies Row[])
      : certificateRows(certificate)),
  ];
}

function gpuInWords({
  name,
  computeCapability,
  multiprocessors,
  memoryBytes,
  freeBytes,
}: GpuDescription): string {
  const free = freeBytes === undefined ? '' : `, ${gibibytes(freeBytes)} free`;
  const memory = `${gibibytes(memoryBytes)} GiB of memory${free}`;
  return `${name}, compute capability ${computeCapability}, ${multiprocessors} multiprocessors, ${memory}`;
}

function driverInWords({ version, cuda }: { version: string; cuda?: string }): string {
  return cuda === undefined ? version : `${version}, serves CUDA ${cuda}`;
}

/** One row for each of its fields; of a list of verdicts, one for each verdict. */
function certificateRows(certificate: Record<string, unknown>): Row[] {
  return Object.entries(certificate).flatMap(([name, value]): Row[] => {
    const label = `certificate: ${snakeCase(name).replaceAll('_', ' ')}`;
    if (Array.isArray(value) && value.some((entry) => typeof entry === 'object'))
      return value.map((entry) => [label, fieldsInWords(entry)]);
    return [[label, fieldsInWords(value)]];
  });
}

function fieldsInWords(value: unknown): string {
  if (Array.isArray(value)) return value.map(fieldsInWords).join(', ');
  if (typeof value !== 'object' || value === null) return String(value);
  return Object.entries(value)
    .map(([name, field]) => `${snakeCase(name).replaceAll('_', ' ')} ${fieldsInWords(field)}`)
    .join(', ');
}

function gibibytes(bytes: number): string {
  return (bytes / 2 ** 30).toFixed(1);
}

/** A table of what was found, what is wrong, and whether the device can be used. */
export function doctorInWords(version: string, probe: HostProbe): string {
  const { device, usable, addon, problems } = probe;
  const table = new Table({ head: ['what', 'found'], style: { head: [], border: [], compact: true } });
  table.push(...rowsOf(version, probe));
  const lines = [table.toString(), ''];
  if (problems.length > 0)
    lines.push('What is wrong:', ...problems.map(({ sentence }) => `  - ${sentence}`), '');
  lines.push(verdict({ device, usable, cpuWorks: addon.loaded }));
  return `${lines.join('\n')}\n`;
}

function verdict({
  device,
  usable,
  cpuWorks,
}: {
  device: string;
  usable: boolean;
  cpuWorks: boolean;
}): string {
  if (usable) return `All is well: --device ${device} can be used.`;
  if (cpuWorks) {
    return `--device ${device} can't be used here. The CPU host works on this machine: leave --device out, and all of Kadenz runs there.`;
  }
  return `Neither --device ${device} nor the CPU host can be used yet.`;
}

/** Names of fields as the command line writes them, all the way down. */
function inSnakeCase(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(inSnakeCase);
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(
    Object.entries(value).map(([name, field]) => [snakeCase(name), inSnakeCase(field)]),
  );
}
