// Writes a trace to a file, frame by frame, in the order in which payloads come. Nobody waits for the disk: what it has not taken yet is
// kept, and the first failure ends the recording. `close` says whether all of it was written.

import { createWriteStream, type WriteStream } from 'node:fs';
import { KadenzError } from '../errors.js';
import { type Checksum, loadChecksum } from './checksum.js';
import { type Compression, loadZstd } from './compression.js';
import { frameBytes, preamble } from './frame.js';

/** A disk that is slower than the run for long: beyond so much waiting data the recording ends, not the process's memory. */
const MAX_QUEUED_BYTES = 2 ** 30;

export interface TraceWriterOptions {
  compression?: 'none' | 'zstd';
  /** Is told once, when it happens. */
  onError?: (error: KadenzError) => void;
}

export class TraceWriter {
  readonly path: string;
  readonly #stream: WriteStream;
  readonly #checksum: Checksum;
  readonly #zstd: Compression | undefined;
  readonly #onError: (error: KadenzError) => void;
  #failure: KadenzError | null = null;

  /** Throws record_failed when the file can't be made. */
  static async create(path: string, options: TraceWriterOptions = {}): Promise<TraceWriter> {
    const checksum = await loadChecksum();
    const zstd = options.compression === 'zstd' ? await loadZstd() : undefined;
    const stream = createWriteStream(path);
    await new Promise<void>((resolve, reject) => {
      stream.once('open', () => resolve());
      stream.once('error', (cause) => reject(failed(path, cause)));
    });
    return new TraceWriter(path, { stream, checksum, zstd, onError: options.onError });
  }

  private constructor(
    path: string,
    parts: {
      stream: WriteStream;
      checksum: Checksum;
      zstd: Compression | undefined;
      onError: ((error: KadenzError) => void) | undefined;
    },
  ) {
    this.path = path;
    this.#stream = parts.stream;
    this.#checksum = parts.checksum;
    this.#zstd = parts.zstd;
    this.#onError = parts.onError ?? (() => {});
    this.#stream.removeAllListeners('error');
    this.#stream.on('error', (cause) => this.#fail(failed(path, cause)));
    this.#stream.write(preamble());
  }

  /** Takes one payload (a TraceFrame). Never throws and never waits. */
  write(payload: Uint8Array): void {
    if (this.#failure !== null) return;
    try {
      this.#stream.write(frameBytes(payload, { checksum: this.#checksum, zstd: this.#zstd }));
    } catch (cause) {
      this.#fail(failed(this.path, cause));
      return;
    }
    if (this.#stream.writableLength > MAX_QUEUED_BYTES) {
      this.#fail(
        new KadenzError(
          'record_failed',
          `The disk of ${this.path} is too slow: ${this.#stream.writableLength} bytes of the trace wait for it. ` +
            'The recording ended there; the run goes on.',
          { value: this.#stream.writableLength, limit: MAX_QUEUED_BYTES },
        ),
      );
    }
  }

  /** Waits until everything is in the file. Throws record_failed when it is not. */
  async close(): Promise<void> {
    if (!this.#stream.closed) {
      await new Promise<void>((resolve) => {
        this.#stream.once('close', () => resolve());
        if (this.#failure === null) this.#stream.end();
        else this.#stream.destroy();
      });
    }
    if (this.#failure !== null) throw this.#failure;
  }

  #fail(error: KadenzError): void {
    if (this.#failure !== null) return;
    this.#failure = error;
    this.#onError(error);
  }
}

function failed(path: string, cause: unknown): KadenzError {
  if (cause instanceof KadenzError) return cause;
  const reason = cause instanceof Error ? cause.message : String(cause);
  return new KadenzError('record_failed', `The trace could not be written to ${path}: ${reason}.`, {
    path,
    cause,
  });
}
