// A TCPStore client: how the engine, as one rank among a trainer's, reads and writes at the place where they meet. Speaks with the server of
// stock PyTorch and with our own.
//
// Every call has an end: `timeoutMs` after it began it rejects with `store_timeout`, and where the connection is lost, at once with
// `store_unavailable`. Calls are done one after the other, in the order in which they were made.

import { connect, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { KadenzError } from '../errors.js';
import {
  type FieldReader,
  MAGIC,
  MessageReader,
  MessageWriter,
  Opcode,
  ProtocolError,
  READY,
  WAIT_OVER,
} from './wire.js';

/** What PyTorch's clients put before the keys of their users. */
const USER_KEYS = '/';
/** Where each client says that it has come: the server's own constructor waits until all have. */
const ARRIVALS = 'init/';
const RETRY_MS = 100;
/** For the answer to what a server answers at once. */
const GRACE_MS = 5000;
/** Of Node's timers: 25 days. */
const MOST_TIMEOUT_MS = 2 ** 31 - 1;
const NONCE = 0x6b64_7a31;

export interface TcpStoreClientOptions {
  host: string;
  port: number;
  /** Of connecting, and of each call that names no other. Default 300,000, as PyTorch has it. */
  timeoutMs?: number;
  /** Put before each key, as PrefixStore does: `a/b` for PrefixStore('b', PrefixStore('a', store)) means keys `/a/b/KEY`. Default none. */
  prefix?: string;
}

interface Call {
  parse(fields: FieldReader): void;
  fail(error: Error): void;
}

export class TcpStoreClient {
  readonly #socket: Socket;
  readonly #where: string;
  readonly #timeoutMs: number;
  readonly #prefix: string;
  readonly #reader = new MessageReader();
  #call: Call | undefined;
  #lost: KadenzError | undefined;
  #last: Promise<unknown> = Promise.resolve();

  private constructor(socket: Socket, where: string, timeoutMs: number, prefix: string) {
    this.#socket = socket;
    this.#where = where;
    this.#timeoutMs = timeoutMs;
    this.#prefix = prefix;
    socket.on('data', (chunk: Buffer) => this.#receive(chunk));
    socket.on('error', (error) => this.#lose(error.message));
    socket.on('close', () => this.#lose('it was closed'));
  }

  /**
   * Tries again until the server is there. Says that this rank has come, so that a server that waits for its world goes on.
   * @throws KadenzError `store_unavailable`
   */
  static async connect({
    host,
    port,
    timeoutMs = 300_000,
    prefix = '',
  }: TcpStoreClientOptions): Promise<TcpStoreClient> {
    const where = `${host}:${port}`;
    const deadline = performance.now() + timeoutMs;
    for (;;) {
      try {
        const socket = await open(host, port, deadline - performance.now());
        const client = new TcpStoreClient(socket, where, timeoutMs, prefix);
        await client.#greet(Math.max(1, deadline - performance.now()));
        return client;
      } catch (cause) {
        if (cause instanceof KadenzError) throw cause;
        if (performance.now() + RETRY_MS < deadline) {
          await sleep(RETRY_MS);
          continue;
        }
        const sentence = `No TCPStore could be reached at ${where} within ${timeoutMs} ms: ${(cause as Error).message}.`;
        throw new KadenzError('store_unavailable', sentence, { cause, value: where, limit: timeoutMs });
      }
    }
  }

  close(): void {
    this.#socket.destroy();
  }

  async set(key: string, value: Uint8Array): Promise<void> {
    await this.#send((message) => message.u8(Opcode.SET).key(this.#full(key)).value(value));
  }

  /** Waits for the key. */
  get(key: string, timeoutMs = this.#timeoutMs): Promise<Buffer> {
    return this.#inTurn(async () => {
      await this.#waitNow([key], timeoutMs);
      return this.#ask(
        (message) => message.u8(Opcode.GET).key(this.#full(key)),
        (fields) => fields.value(),
        timeoutMs,
      );
    });
  }

  /** Until all of them are there. */
  wait(keys: string[], timeoutMs = this.#timeoutMs): Promise<void> {
    return this.#inTurn(() => this.#waitNow(keys, timeoutMs));
  }

  /** The counter afterwards; a missing one is 0. */
  async add(key: string, amount: number): Promise<number> {
    return this.#inTurn(() => this.#add(this.#full(key), amount, this.#timeoutMs));
  }

  /** Whether all of them are there. */
  check(keys: string[]): Promise<boolean> {
    return this.#inTurn(() =>
      this.#ask(
        (message) => this.#keys(message.u8(Opcode.CHECK), keys),
        (fields) => fields.u8() === READY,
      ),
    );
  }

  /** Sets the key to `desired` if it is `expected`, or missing where nothing is expected. The value afterwards. */
  compareSet(key: string, expected: Uint8Array, desired: Uint8Array): Promise<Buffer> {
    return this.#inTurn(() =>
      this.#ask(
        (message) => message.u8(Opcode.COMPARE_SET).key(this.#full(key)).value(expected).value(desired),
        (fields) => fields.value(),
      ),
    );
  }

  async append(key: string, bytes: Uint8Array): Promise<void> {
    await this.#send((message) => message.u8(Opcode.APPEND).key(this.#full(key)).value(bytes));
  }

  /** Whether it was there. */
  deleteKey(key: string): Promise<boolean> {
    return this.#inTurn(() =>
      this.#ask(
        (message) => message.u8(Opcode.DELETE_KEY).key(this.#full(key)),
        (fields) => fields.i64() > 0n,
      ),
    );
  }

  /** All keys of the store as they are, those of other prefixes among them. */
  listKeys(): Promise<string[]> {
    return this.#inTurn(() =>
      this.#ask(
        (message) => message.u8(Opcode.LIST_KEYS),
        (fields) => fields.list(() => Buffer.from(fields.key(), 'latin1').toString()),
      ),
    );
  }

  #full(key: string): string {
    return asKey(USER_KEYS + (this.#prefix === '' ? key : `${this.#prefix}/${key}`));
  }

  #keys(message: MessageWriter, keys: string[]): MessageWriter {
    return keys.reduce((sum, key) => sum.key(this.#full(key)), message.i64(BigInt(keys.length)));
  }

  async #greet(timeoutMs: number): Promise<void> {
    this.#socket.write(new MessageWriter().u8(Opcode.VALIDATE).u32(MAGIC).bytes());
    const nonce = await this.#ask(
      (message) => message.u8(Opcode.PING).u32(NONCE),
      (fields) => fields.u32(),
      timeoutMs,
    );
    if (nonce !== NONCE) throw this.#lose('it answers otherwise than a TCPStore');
    await this.#add(ARRIVALS, 1, timeoutMs);
  }

  #add(key: string, amount: number, timeoutMs: number): Promise<number> {
    return this.#ask(
      (message) => message.u8(Opcode.ADD).key(key).i64(BigInt(amount)),
      (fields) => Number(fields.i64()),
      timeoutMs,
    );
  }

  async #waitNow(keys: string[], timeoutMs: number): Promise<void> {
    let isCanceled = false;
    let grace: NodeJS.Timeout | undefined;
    const cancel = () => {
      isCanceled = true;
      this.#socket.write(new MessageWriter().u8(Opcode.CANCEL_WAIT).bytes());
      grace = setTimeout(() => this.#lose('it does not answer'), GRACE_MS);
    };
    const timer = setTimeout(cancel, Math.min(timeoutMs, MOST_TIMEOUT_MS));
    try {
      const isOver = await this.#ask(
        (message) => this.#keys(message.u8(Opcode.WAIT), keys),
        (fields) => fields.u8() === WAIT_OVER,
        Number.POSITIVE_INFINITY,
      );
      // Where the wait came to its end while its cancellation was under way, that is answered too.
      if (isOver && isCanceled) await this.#answer((fields) => fields.u8(), GRACE_MS);
      if (isOver) return;
    } finally {
      clearTimeout(timer);
      clearTimeout(grace);
    }
    const names = keys.map((key) => `'${key}'`).join(', ');
    const sentence = `${names} did not appear in the TCPStore at ${this.#where} within ${timeoutMs} ms. Has another rank ended, or not begun?`;
    throw new KadenzError('store_timeout', sentence, { value: keys, limit: timeoutMs });
  }

  #inTurn<Result>(work: () => Promise<Result>): Promise<Result> {
    const result = this.#last.then(work);
    this.#last = result.catch(() => undefined);
    return result;
  }

  /** A request that is not answered. */
  #send(build: (message: MessageWriter) => MessageWriter): Promise<void> {
    return this.#inTurn(async () => {
      if (this.#lost !== undefined) throw this.#lost;
      this.#socket.write(build(new MessageWriter()).bytes());
    });
  }

  #ask<Answer>(
    build: (message: MessageWriter) => MessageWriter,
    parse: (fields: FieldReader) => Answer,
    timeoutMs = this.#timeoutMs,
  ): Promise<Answer> {
    if (this.#lost !== undefined) return Promise.reject(this.#lost);
    this.#socket.write(build(new MessageWriter()).bytes());
    return this.#answer(parse, timeoutMs);
  }

  /** Where none comes in time the connection is given up: what comes later could not be told from the next one's. */
  #answer<Answer>(parse: (fields: FieldReader) => Answer, timeoutMs: number): Promise<Answer> {
    if (this.#lost !== undefined) return Promise.reject(this.#lost);
    return new Promise((resolve, reject) => {
      const timer = Number.isFinite(timeoutMs)
        ? setTimeout(() => this.#lose(`it did not answer within ${timeoutMs} ms`), timeoutMs)
        : undefined;
      this.#call = {
        parse: (fields) => {
          const answer = parse(fields);
          // Behind the last field: parse() begins anew where one has not come yet.
          clearTimeout(timer);
          this.#call = undefined;
          resolve(answer);
        },
        fail: (error) => {
          clearTimeout(timer);
          this.#call = undefined;
          reject(error);
        },
      };
      this.#readAnswers(); // it may have come with the one before
    });
  }

  #receive(chunk: Buffer): void {
    this.#reader.append(chunk);
    this.#readAnswers();
  }

  #readAnswers(): void {
    try {
      while (this.#call !== undefined) {
        const { parse } = this.#call;
        const isWhole = this.#reader.read((fields) => {
          parse(fields);
          return true;
        });
        if (isWhole === undefined) return;
      }
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      this.#lose(error.message);
    }
  }

  #lose(why: string): KadenzError {
    this.#lost ??= new KadenzError(
      'store_unavailable',
      `The connection to the TCPStore at ${this.#where} is lost: ${why}.`,
      { value: this.#where },
    );
    this.#socket.destroy();
    this.#call?.fail(this.#lost);
    return this.#lost;
  }
}

/** Text as its bytes in UTF-8, a character each: how wire.ts has keys. */
function asKey(text: string): string {
  return Buffer.from(text).toString('latin1');
}

function open(host: string, port: number, timeoutMs: number): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect({ host, port, noDelay: true });
    const timer = setTimeout(() => socket.destroy(new Error('no answer')), Math.max(1, timeoutMs));
    socket.once('error', (error) => {
      clearTimeout(timer);
      reject(error);
    });
    socket.once('connect', () => {
      clearTimeout(timer);
      socket.removeAllListeners('error');
      resolve(socket);
    });
  });
}
