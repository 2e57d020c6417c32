// Where results go: a file, or standard output. A write that fails (disk full, closed pipe) is a KadenzError output_failed.

import { type FileHandle, open } from 'node:fs/promises';
import { KadenzError } from '../errors.js';

export interface OutputFile {
  /** Resolves when the operating system has the line. */
  writeLine(line: string): Promise<void>;
  close(): Promise<void>;
}

/** Opens the file for writing, from its start; without a path, standard output. */
export async function openOutput(path: string | undefined): Promise<OutputFile> {
  if (path === undefined) return new StandardOutput();
  const name = JSON.stringify(path);
  return new NamedFile(name, await explained(name, () => open(path, 'w')));
}

class NamedFile implements OutputFile {
  readonly #name: string;
  readonly #handle: FileHandle;

  constructor(name: string, handle: FileHandle) {
    this.#name = name;
    this.#handle = handle;
  }

  writeLine(line: string): Promise<void> {
    return explained(this.#name, () => this.#handle.appendFile(`${line}\n`));
  }

  close(): Promise<void> {
    return explained(this.#name, () => this.#handle.close());
  }
}

class StandardOutput implements OutputFile {
  constructor() {
    // The error reaches the write's own callback; without a listener the event would end the process with a stack trace.
    process.stdout.on('error', () => {});
  }

  writeLine(line: string): Promise<void> {
    return explained('standard output', () => {
      return new Promise<void>((resolve, reject) => {
        process.stdout.write(`${line}\n`, (error) => (error ? reject(error) : resolve()));
      });
    });
  }

  async close(): Promise<void> {}
}

async function explained<T>(name: string, action: () => Promise<T>): Promise<T> {
  try {
    return await action();
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new KadenzError('output_failed', `Writing to ${name} failed: ${reason}.`, {
      path: name,
      cause: error,
    });
  }
}
