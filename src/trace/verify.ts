// Verifies the FlatBuffers of a trace before anything reads them: a file may come from anywhere. Every table, vtable, vector and string
// must lie inside the message, aligned, and counts must agree. The rules are those of the FlatBuffers binary format; what lies inside a
// payload as a message of its own (a Command, a Result) is verified by the core when it takes it.

import { CommandPayload, TraceBody } from '../generated/index.js';

/** One message. Every check throws a Damage on the first thing that is wrong. */
export class Message {
  readonly #view: DataView;
  readonly #bytes: Uint8Array;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  root(): Table {
    require(this.#bytes.byteLength >= 8, 'a message is shorter than its root');
    return this.table(this.u32(0));
  }

  table(at: number): Table {
    this.inside(at, 4, 4);
    const vtable = at - this.#view.getInt32(at, true);
    this.inside(vtable, 4, 2);
    const vtableBytes = this.u16(vtable);
    const tableBytes = this.u16(vtable + 2);
    require(vtableBytes >= 4 && vtableBytes % 2 === 0 && tableBytes >= 4, 'a table is malformed');
    this.inside(vtable, vtableBytes, 2);
    this.inside(at, tableBytes, 4);
    return new Table(this, { at, vtable, vtableBytes, tableBytes });
  }

  inside(at: number, bytes: number, alignment: number): void {
    require(at >= 0 &&
      at % alignment === 0 &&
      at + bytes <= this.#bytes.byteLength, 'something lies outside of its message');
  }

  u16(at: number): number {
    return this.#view.getUint16(at, true);
  }

  u32(at: number): number {
    return this.#view.getUint32(at, true);
  }

  u8(at: number): number {
    return this.#bytes[at]!;
  }

  sub(at: number, count: number): Uint8Array {
    return this.#bytes.subarray(at, at + count);
  }
}

interface Place {
  at: number;
  vtable: number;
  vtableBytes: number;
  tableBytes: number;
}

export class Table {
  readonly #message: Message;
  readonly #place: Place;

  constructor(message: Message, place: Place) {
    this.#message = message;
    this.#place = place;
  }

  /** Where field number `field` lies; null when it is absent. */
  field(field: number, bytes: number, alignment: number): number | null {
    const { at, vtable, vtableBytes, tableBytes } = this.#place;
    const entry = 4 + 2 * field;
    if (entry >= vtableBytes) return null;
    const offset = this.#message.u16(vtable + entry);
    if (offset === 0) return null;
    require(offset >= 4 &&
      offset + bytes <= tableBytes &&
      (at + offset) % alignment === 0, 'a field lies outside of its table');
    return at + offset;
  }

  /** A vector's first element and count; null when absent. */
  vector(field: number, elementBytes: number, alignment: number): { at: number; count: number } | null {
    const place = this.field(field, 4, 4);
    if (place === null) return null;
    const vector = place + this.#message.u32(place);
    this.#message.inside(vector, 4, 4);
    const count = this.#message.u32(vector);
    this.#message.inside(vector + 4, count * elementBytes, count === 0 ? 1 : alignment);
    return { at: vector + 4, count };
  }

  string(field: number): void {
    const vector = this.vector(field, 1, 1);
    if (vector === null) return;
    this.#message.inside(vector.at, vector.count + 1, 1);
    require(this.#message.u8(vector.at + vector.count) === 0, 'a string has no end');
  }

  scalars(fields: readonly (readonly [field: number, bytes: number])[]): void {
    for (const [field, bytes] of fields) this.field(field, bytes, bytes);
  }

  /** A table that a field must point to. */
  table(field: number): Table {
    const place = this.field(field, 4, 4);
    if (place === null) throw new Damage('a table is missing');
    return this.#message.table(place + this.#message.u32(place));
  }

  u8(field: number): number {
    const place = this.field(field, 1, 1);
    return place === null ? 0 : this.#message.u8(place);
  }

  get message(): Message {
    return this.#message;
  }
}

export class Damage extends Error {}

export function require(holds: boolean, what: string): asserts holds {
  if (!holds) throw new Damage(what);
}

/** Throws a Damage unless these bytes are a TraceFrame that can be read anywhere. */
export function verifyFrame(bytes: Uint8Array): void {
  const frame = new Message(bytes).root();
  const type = frame.u8(0);
  const body = frame.table(1);
  if (type === TraceBody.TraceHeader) verifyHeader(body);
  else if (type === TraceBody.TraceSteps) verifySteps(body);
  else if (type === TraceBody.TraceCommand) verifyCommandEntry(body);
  else if (type === TraceBody.TraceEnd)
    body.scalars([
      [0, 8],
      [1, 8],
      [2, 8],
    ]);
  else throw new Damage(`a frame is of kind ${type}, which this version does not know`);
}

function verifyHeader(header: Table): void {
  header.scalars([
    [0, 4],
    [7, 8],
    [8, 1],
  ]);
  for (const field of [1, 4, 5, 6]) header.string(field);
  require(header.vector(2, 1, 1)?.count === 32, 'the hash of the core has not 32 bytes');
  const configure = header.vector(3, 1, 8);
  require(configure !== null, 'the configuration is missing');
  verifyConfigure(header.message.sub(configure.at, configure.count));
}

/** Configure is decoded before a core is there to verify it. */
function verifyConfigure(bytes: Uint8Array): void {
  const command = new Message(bytes).root();
  command.scalars([
    [0, 8],
    [1, 1],
  ]);
  require(command.u8(1) === CommandPayload.Configure, 'the configuration is a command of another kind');
  const configure = command.table(2);
  configure.scalars([0, 1, 2, 3, 4, 5, 6, 7].map((field) => [field, 4] as const));
  configure.scalars([
    [8, 1],
    [9, 4],
    [10, 4],
    [11, 4],
    [12, 8],
  ]);
  configure.vector(13, 4, 4);
}

function verifyCommandEntry(entry: Table): void {
  entry.scalars([
    [0, 8],
    [1, 8],
    [2, 4],
  ]);
  require(entry.vector(3, 1, 8) !== null, 'a command is missing');
}

function verifySteps(body: Table): void {
  body.scalars([
    [0, 8],
    [1, 8],
  ]);
  const { message } = body;
  const steps = body.vector(2, 24, 8);
  require(steps !== null && steps.count > 0, 'steps are missing');
  const tokens = body.vector(3, 4, 4)?.count ?? 0;
  require((body.vector(4, 4, 4)?.count ?? 0) === tokens, 'token ids and log-probs differ in number');
  let samples = 0;
  for (let i = 0; i < steps.count; i += 1) samples += message.u32(steps.at + 24 * i + 16);
  require(samples === tokens, 'steps and token ids differ in number');
  const resultSteps = body.vector(5, 4, 4);
  verifyAscending(message, resultSteps, steps.count - 1, 1);
  verifyEnds(message, {
    ends: body.vector(6, 4, 4),
    bytes: body.vector(7, 1, 8),
    count: resultSteps?.count ?? 0,
  });
  const planEnds = body.vector(8, 4, 4);
  const numPlans = planEnds?.count ?? 0;
  require(numPlans === 0 || numPlans === steps.count, 'steps and plans differ in number');
  verifyEnds(message, { ends: planEnds, bytes: body.vector(9, 1, 8), count: numPlans });
  for (let i = 0; i < (resultSteps?.count ?? 0); i += 1) {
    const at = steps.at + 24 * message.u32(resultSteps!.at + 4 * i);
    require(message.u32(at + 16) === 0, 'a step with a whole Result has samples beside it');
  }
}

type Vector = { at: number; count: number } | null;

function verifyAscending(message: Message, vector: Vector, most: number, least: number): void {
  let previous = -least;
  for (let i = 0; i < (vector?.count ?? 0); i += 1) {
    const value = message.u32(vector!.at + 4 * i);
    require(value >= previous + least && value <= most, 'running ends do not ascend');
    previous = value;
  }
}

function verifyEnds(
  message: Message,
  { ends, bytes, count }: { ends: Vector; bytes: Vector; count: number },
): void {
  require((ends?.count ?? 0) === count, 'running ends differ in number');
  verifyAscending(message, ends, bytes?.count ?? 0, 0);
}
