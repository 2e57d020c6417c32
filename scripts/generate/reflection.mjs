// Reads a binary schema (.bfbs, what `flatc --schema -b` writes) into plain objects, as much of it as the accessor
// generator needs. The binary schema is a FlatBuffer itself (reflection.fbs); its few tables are read here by field
// number, so that no generated reader is needed to generate readers.

import { ByteBuffer } from 'flatbuffers';

/** reflection.fbs: BaseType, in its order. */
const BASE_TYPES = [
  'none',
  'union_type',
  'bool',
  'i8',
  'u8',
  'i16',
  'u16',
  'i32',
  'u32',
  'i64',
  'u64',
  'f32',
  'f64',
  'string',
  'vector',
  'object',
  'union',
  'array',
  'vector64',
];

class Table {
  constructor(buffer, position) {
    this.buffer = buffer;
    this.position = position;
  }
  at(field) {
    const offset = this.buffer.__offset(this.position, 4 + 2 * field);
    return offset === 0 ? 0 : this.position + offset;
  }
  string(field) {
    const at = this.at(field);
    return at === 0 ? '' : this.buffer.__string(at);
  }
  table(field) {
    const at = this.at(field);
    return at === 0 ? null : new Table(this.buffer, this.buffer.__indirect(at));
  }
  tables(field) {
    const at = this.at(field);
    if (at === 0) return [];
    const first = this.buffer.__vector(at);
    const length = this.buffer.__vector_len(at);
    return Array.from({ length }, (_, i) => new Table(this.buffer, this.buffer.__indirect(first + 4 * i)));
  }
  number(field, read, otherwise) {
    const at = this.at(field);
    return at === 0 ? otherwise : this.buffer[read](at);
  }
  bool(field) {
    return this.number(field, 'readUint8', 0) !== 0;
  }
}

function readType(table) {
  return {
    base: BASE_TYPES[table.number(0, 'readUint8', 0)],
    element: BASE_TYPES[table.number(1, 'readUint8', 0)],
    index: table.number(2, 'readInt32', -1),
  };
}

function readField(table) {
  return {
    name: table.string(0),
    type: readType(table.table(1)),
    id: table.number(2, 'readUint16', 0),
    offset: table.number(3, 'readUint16', 0),
    defaultInteger: table.number(4, 'readInt64', 0n),
    defaultReal: table.number(5, 'readFloat64', 0),
    deprecated: table.bool(6),
  };
}

/** `//command.fbs` -> `command`: the schema that declares a thing. */
const schemaOf = (file) => file.replace(/^.*\//, '').replace(/\.fbs$/, '');
const shortName = (name) => name.replace(/^.*\./, '');

/**
 * @param {Uint8Array} bytes a .bfbs file
 * @returns {{ objects: object[], enums: object[] }} in the order that type indices refer to;
 *   the fields of an object in the order of their ids
 */
export function readSchema(bytes) {
  const buffer = new ByteBuffer(bytes);
  const schema = new Table(buffer, buffer.readInt32(0));
  const objects = schema.tables(0).map((table) => ({
    name: shortName(table.string(0)),
    fields: table
      .tables(1)
      .map(readField)
      .sort((a, b) => a.id - b.id),
    isStruct: table.bool(2),
    alignment: table.number(3, 'readInt32', 1),
    bytes: table.number(4, 'readInt32', 0),
    schema: schemaOf(table.string(7)),
  }));
  const enums = schema.tables(1).map((table) => ({
    name: shortName(table.string(0)),
    values: table.tables(1).map((value) => {
      const type = value.table(3);
      return {
        name: value.string(0),
        value: value.number(1, 'readInt64', 0n),
        object: type ? readType(type).index : -1,
      };
    }),
    isUnion: table.bool(2),
    underlying: readType(table.table(3)).base,
    schema: schemaOf(table.string(6)),
  }));
  return { objects, enums };
}
