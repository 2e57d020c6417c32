// Runs the built command line as a user does: a process of its own, with its standard streams and its exit code.

import { type ChildProcess, spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';

const MAIN = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));

export interface CliRun {
  exitCode: number | null;
  stdout: string;
  stderr: string;
  /** Standard output as JSON lines, whole ones: a reader that went away may have been left with a piece. */
  lines: Record<string, never>[];
}

export interface CliOptions {
  input?: string;
  /** Called with each piece of standard output. */
  onOutput?(child: ChildProcess, piece: string): void;
}

export function runCli(parameters: string[], { input = '', onOutput }: CliOptions = {}): Promise<CliRun> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [MAIN, ...parameters], { stdio: ['pipe', 'pipe', 'pipe'] });
    let stdout = '';
    let stderr = '';
    child.stdout.setEncoding('utf8').on('data', (piece: string) => {
      stdout += piece;
      onOutput?.(child, piece);
    });
    child.stderr.setEncoding('utf8').on('data', (piece: string) => {
      stderr += piece;
    });
    child.on('error', reject);
    child.on('close', (exitCode) => {
      const wholeLines = stdout.split('\n').slice(0, -1);
      const texts = wholeLines.filter((text) => text.startsWith('{'));
      resolve({ exitCode, stdout, stderr, lines: texts.map((text) => JSON.parse(text)) });
    });
    child.stdin.on('error', () => {});
    child.stdin.end(input);
  });
}
