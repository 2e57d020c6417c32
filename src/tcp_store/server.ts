// A TCPStore server: what a trainer's ranks meet at where the engine is rank 0. Speaks with the clients of stock PyTorch.
//
// It listens on loopback alone. A connection that breaks the protocol is closed; the others go on.

import { createServer, type Server, type Socket } from 'node:net';
import { KadenzError } from '../errors.js';
import { StoreContents, type Waiter } from './contents.js';
import {
  type FieldReader,
  MAGIC,
  MessageReader,
  MessageWriter,
  MOST_VALUE_BYTES,
  NOT_READY,
  Opcode,
  ProtocolError,
  READY,
  WAIT_CANCELED,
  WAIT_OVER,
} from './wire.js';

/** Of answers that a client asked for and doesn't read. */
const MOST_UNREAD_BYTES = 2 * MOST_VALUE_BYTES;
const LOOPBACK = ['127.0.0.1', '::1', 'localhost'];

export interface TcpStoreServerOptions {
  /** A loopback address. Default 127.0.0.1. */
  host?: string;
  /** Default 0: any that is free. */
  port?: number;
}

export class TcpStoreServer {
  readonly host: string;
  readonly port: number;
  readonly #server: Server;
  readonly #connections: Set<Connection>;

  private constructor(server: Server, connections: Set<Connection>, host: string) {
    this.#server = server;
    this.#connections = connections;
    this.host = host;
    const address = server.address();
    if (address === null || typeof address === 'string') throw new Error('The store listens on no port.');
    this.port = address.port;
  }

  /** @throws KadenzError `store_unavailable` where the address is no loopback one or can't be listened on */
  static async listen({ host = '127.0.0.1', port = 0 }: TcpStoreServerOptions = {}): Promise<TcpStoreServer> {
    if (!LOOPBACK.includes(host)) {
      throw new KadenzError(
        'store_unavailable',
        `The store was to listen on ${host}; it listens on loopback only: 127.0.0.1, ::1 or localhost.`,
        { value: host },
      );
    }
    const contents = new StoreContents();
    const connections = new Set<Connection>();
    const barriers = new Map<string, Connection[]>();
    const server = createServer({ noDelay: true }, (socket) => {
      const connection = new Connection(socket, contents, barriers);
      connections.add(connection);
      socket.on('close', () => connections.delete(connection));
    });
    await new Promise<void>((resolve, reject) => {
      server.once('error', (cause) =>
        reject(
          new KadenzError('store_unavailable', `${host}:${port} can't be listened on: ${cause.message}.`, {
            cause,
          }),
        ),
      );
      server.listen(port, host, resolve);
    });
    return new TcpStoreServer(server, connections, host);
  }

  /** Ends all connections. */
  async close(): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    for (const connection of this.#connections) connection.end();
    await closed;
  }
}

/** One client. Its requests are done in their order; a wait is answered when it is over. */
class Connection {
  readonly #socket: Socket;
  readonly #contents: StoreContents;
  readonly #barriers: Map<string, Connection[]>;
  readonly #reader = new MessageReader();
  #validated = false;
  #waiter: Waiter | undefined;

  constructor(socket: Socket, contents: StoreContents, barriers: Map<string, Connection[]>) {
    this.#socket = socket;
    this.#contents = contents;
    this.#barriers = barriers;
    socket.on('data', (chunk: Buffer) => this.#receive(chunk));
    socket.on('error', () => socket.destroy());
    socket.on('close', () => this.#leave());
  }

  end(): void {
    this.#socket.destroy();
  }

  #receive(chunk: Buffer): void {
    this.#reader.append(chunk);
    try {
      for (;;) {
        const answer = this.#reader.read((fields) => this.#parse(fields));
        if (answer === undefined) return;
        answer();
      }
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      this.#socket.destroy();
    }
  }

  #reply(build: (message: MessageWriter) => MessageWriter): void {
    this.#socket.write(build(new MessageWriter()).bytes());
    if (this.#socket.writableLength > MOST_UNREAD_BYTES) this.#socket.destroy();
  }

  /** A whole request; what is returned does it. Nothing is done before all its fields have come. */
  #parse(fields: FieldReader): () => void {
    const opcode = fields.u8();
    if (!this.#validated) {
      if (opcode !== Opcode.VALIDATE || fields.u32() !== MAGIC) throw new ProtocolError('no TCPStore client');
      this.#validated = true;
      return () => undefined;
    }
    switch (opcode) {
      case Opcode.PING: {
        const nonce = fields.u32();
        return () => this.#reply((message) => message.u32(nonce));
      }
      case Opcode.WAIT:
        return this.#wait(fields.list(() => fields.key()));
      case Opcode.CANCEL_WAIT:
        return () => this.#cancelWait();
      case Opcode.BARRIER: {
        const [key, world] = [fields.key(), fields.i64()];
        return () => this.#arrive(key, world);
      }
      case Opcode.SET:
      case Opcode.MULTI_SET:
      case Opcode.APPEND:
      case Opcode.QUEUE_PUSH:
        return this.#write(opcode, fields);
      default:
        return this.#ask(opcode, fields);
    }
  }

  /** Requests without an answer. */
  #write(opcode: number, fields: FieldReader): () => void {
    const entry = (): [string, Buffer] => [fields.key(), fields.value()];
    const entries = opcode === Opcode.MULTI_SET ? fields.list(entry) : [entry()];
    return () => {
      for (const [key, value] of entries) {
        if (opcode === Opcode.APPEND) this.#contents.append(key, value);
        else if (opcode === Opcode.QUEUE_PUSH) this.#contents.push(key, value);
        else this.#contents.set(key, value);
      }
    };
  }

  /** Requests that are answered at once. */
  #ask(opcode: number, fields: FieldReader): () => void {
    const contents = this.#contents;
    switch (opcode) {
      case Opcode.GET: {
        const key = fields.key();
        return () => this.#reply((message) => message.value(this.#present(key)));
      }
      case Opcode.MULTI_GET: {
        const keys = fields.list(() => fields.key());
        return () => {
          const values = keys.map((key) => this.#present(key));
          this.#reply((message) => values.reduce((sum, value) => sum.value(value), message));
        };
      }
      case Opcode.ADD: {
        const [key, amount] = [fields.key(), fields.i64()];
        return () => this.#reply((message) => message.i64(contents.add(key, amount)));
      }
      case Opcode.COMPARE_SET: {
        const [key, expected, desired] = [fields.key(), fields.value(), fields.value()];
        return () => this.#reply((message) => message.value(contents.compareSet(key, expected, desired)));
      }
      case Opcode.CHECK: {
        const keys = fields.list(() => fields.key());
        return () =>
          this.#reply((message) => message.u8(keys.every((key) => contents.has(key)) ? READY : NOT_READY));
      }
      case Opcode.GET_NUM_KEYS:
        return () => this.#reply((message) => message.i64(BigInt(contents.keys().length)));
      case Opcode.DELETE_KEY: {
        const key = fields.key();
        return () => this.#reply((message) => message.i64(contents.delete(key) ? 1n : 0n));
      }
      case Opcode.QUEUE_POP: {
        const key = fields.key();
        return () => this.#pop(key);
      }
      case Opcode.QUEUE_LEN: {
        const key = fields.key();
        return () => this.#reply((message) => message.i64(BigInt(contents.queueLength(key))));
      }
      case Opcode.LIST_KEYS:
        return () => {
          const keys = contents.keys();
          this.#reply((message) => keys.reduce((sum, key) => sum.key(key), message.i64(BigInt(keys.length))));
        };
      default:
        throw new ProtocolError(`unknown request ${opcode}`);
    }
  }

  /** Clients wait for a key before they ask for it. */
  #present(key: string): Buffer {
    const value = this.#contents.get(key);
    if (value === undefined) throw new ProtocolError(`'${key}' was asked for and is not there`);
    return value;
  }

  #pop(key: string): void {
    const length = this.#contents.queueLength(key);
    const value = this.#contents.pop(key);
    this.#reply((message) =>
      value === undefined ? message.i64(0n) : message.i64(BigInt(length)).value(value),
    );
  }

  #wait(keys: string[]): () => void {
    return () => {
      if (this.#waiter !== undefined) throw new ProtocolError('a second wait');
      this.#waiter = {
        missing: new Set(keys),
        over: () => {
          this.#waiter = undefined;
          this.#reply((message) => message.u8(WAIT_OVER));
        },
      };
      this.#contents.wait(this.#waiter);
    };
  }

  /** Answered also where the wait is over by now: its own answer is under way then. */
  #cancelWait(): void {
    if (this.#waiter !== undefined) this.#contents.forget(this.#waiter);
    this.#waiter = undefined;
    this.#reply((message) => message.u8(WAIT_CANCELED));
  }

  #arrive(key: string, world: bigint): void {
    const arrived = this.#barriers.get(key) ?? [];
    arrived.push(this);
    this.#barriers.set(key, arrived);
    if (BigInt(arrived.length) < world) return;
    this.#barriers.delete(key);
    for (const connection of arrived) connection.#reply((message) => message.u8(WAIT_OVER));
  }

  #leave(): void {
    if (this.#waiter !== undefined) this.#contents.forget(this.#waiter);
    for (const [key, arrived] of this.#barriers) {
      const others = arrived.filter((connection) => connection !== this);
      if (others.length === 0) this.#barriers.delete(key);
      else this.#barriers.set(key, others);
    }
  }
}
