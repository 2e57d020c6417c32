// The bytes of torch.distributed's TCPStore, version of its libuv server: little-endian; a string or value is a u64 length and its bytes; a
// request is one opcode and its fields. https://docs.pytorch.org/docs/stable/distributed.html#torch.distributed.TCPStore says what the
// operations mean.
//
// What a peer sends is hostile: lengths and counts are capped before anything is kept, and what breaks the protocol is a ProtocolError, which
// costs that connection.

export const Opcode = {
  VALIDATE: 0,
  SET: 1,
  COMPARE_SET: 2,
  GET: 3,
  ADD: 4,
  CHECK: 5,
  WAIT: 6,
  GET_NUM_KEYS: 7,
  DELETE_KEY: 8,
  APPEND: 9,
  MULTI_GET: 10,
  MULTI_SET: 11,
  CANCEL_WAIT: 12,
  PING: 13,
  QUEUE_PUSH: 14,
  QUEUE_POP: 15,
  QUEUE_LEN: 16,
  LIST_KEYS: 17,
  BARRIER: 18,
} as const;

/** First of all that a client sends. */
export const MAGIC = 0x3c85f7ce;
/** CHECK's answer. */
export const READY = 0;
export const NOT_READY = 1;
/** WAIT's answer, and CANCEL_WAIT's. */
export const WAIT_OVER = 0;
export const WAIT_CANCELED = 1;

const MOST_KEY_BYTES = 1 << 16;
export const MOST_VALUE_BYTES = 1 << 26;
const MOST_KEYS = 1 << 16;

export class ProtocolError extends Error {
  override readonly name = 'ProtocolError';
}

/** A message is not whole before there are `bytes` of it. */
class NeedMore {
  readonly bytes: number;
  constructor(bytes: number) {
    this.bytes = bytes;
  }
}

/** Reads fields one after the other; leaves by NeedMore where a field has not come whole yet. */
export class FieldReader {
  #at = 0;
  readonly #bytes: Buffer;

  constructor(bytes: Buffer) {
    this.#bytes = bytes;
  }

  get position(): number {
    return this.#at;
  }

  #skip(count: number): number {
    const at = this.#at;
    if (at + count > this.#bytes.length) throw new NeedMore(at + count);
    this.#at += count;
    return at;
  }

  u8(): number {
    return this.#bytes.readUInt8(this.#skip(1));
  }

  u32(): number {
    return this.#bytes.readUInt32LE(this.#skip(4));
  }

  i64(): bigint {
    return this.#bytes.readBigInt64LE(this.#skip(8));
  }

  #length(most: number, what: string): number {
    const length = this.#bytes.readBigUInt64LE(this.#skip(8));
    if (length > most) throw new ProtocolError(`${what} is ${length}; at most ${most} are taken`);
    return Number(length);
  }

  #take(length: number): Buffer {
    const at = this.#skip(length);
    return this.#bytes.subarray(at, at + length);
  }

  key(): string {
    return this.#take(this.#length(MOST_KEY_BYTES, 'the length of a key')).toString('latin1');
  }

  /** A copy. */
  value(): Buffer {
    return Buffer.from(this.#take(this.#length(MOST_VALUE_BYTES, 'the length of a value')));
  }

  list<Item>(item: () => Item): Item[] {
    const length = this.#length(MOST_KEYS, 'the number of keys');
    return Array.from({ length }, item);
  }
}

/** Bytes as they come, in pieces of any size; whole messages as they are complete. */
export class MessageReader {
  #chunks: Buffer[] = [];
  #length = 0;
  /** Fewer make no message: they aren't put together before, or a long value in small pieces would be copied over and over. */
  #needed = 1;

  append(chunk: Buffer): void {
    this.#chunks.push(chunk);
    this.#length += chunk.length;
  }

  /** undefined: not whole yet; nothing is consumed then. */
  read<Message>(parse: (fields: FieldReader) => Message): Message | undefined {
    if (this.#length < this.#needed) return undefined;
    const bytes = this.#chunks.length === 1 ? this.#chunks[0]! : Buffer.concat(this.#chunks);
    const fields = new FieldReader(bytes);
    try {
      const message = parse(fields);
      this.#keep(bytes.subarray(fields.position), 1);
      return message;
    } catch (error) {
      if (!(error instanceof NeedMore)) throw error;
      this.#keep(bytes, error.bytes);
      return undefined;
    }
  }

  #keep(bytes: Buffer, needed: number): void {
    this.#chunks = [bytes];
    this.#length = bytes.length;
    this.#needed = needed;
  }
}

/** Makes a message, field by field. Keys are bytes as characters (latin1), so that any bytes of a key come back as they were. */
export class MessageWriter {
  readonly #parts: Buffer[] = [];

  u8(value: number): this {
    this.#parts.push(Buffer.of(value));
    return this;
  }

  u32(value: number): this {
    const part = Buffer.alloc(4);
    part.writeUInt32LE(value);
    this.#parts.push(part);
    return this;
  }

  i64(value: bigint): this {
    const part = Buffer.alloc(8);
    part.writeBigInt64LE(value);
    this.#parts.push(part);
    return this;
  }

  value(bytes: Uint8Array): this {
    this.i64(BigInt(bytes.length));
    this.#parts.push(Buffer.from(bytes));
    return this;
  }

  key(key: string): this {
    return this.value(Buffer.from(key, 'latin1'));
  }

  bytes(): Buffer {
    return Buffer.concat(this.#parts);
  }
}
