// Writes the AssemblyScript accessors of one schema: per enum a namespace of constants, per struct a namespace of field
// readers, per table readers, a verifier and a forward writer over assembly/wire/flatbuffer.ts. No classes, no globals:
// everything is a function of raw pointers. Floats are only ever handed on as bits.

/** Bytes and AssemblyScript type of each scalar; floats appear as their bits. */
const SCALARS = {
  bool: { bytes: 1, type: 'bool', store: 'u8' },
  union_type: { bytes: 1, type: 'u8' },
  i8: { bytes: 1, type: 'i8' },
  u8: { bytes: 1, type: 'u8' },
  i16: { bytes: 2, type: 'i16' },
  u16: { bytes: 2, type: 'u16' },
  i32: { bytes: 4, type: 'i32' },
  u32: { bytes: 4, type: 'u32' },
  i64: { bytes: 8, type: 'i64' },
  u64: { bytes: 8, type: 'u64' },
  f32: { bytes: 4, type: 'u32', float: true },
  f64: { bytes: 8, type: 'u64', float: true },
};

const unsupported = (what) => {
  throw new Error(
    `schemas: ${what} has no AssemblyScript accessor yet; extend scripts/generate/assembly_script.mjs`,
  );
};

/** What a table's field is and takes inside its table. */
function layoutOf(schema, owner, field) {
  const { base, element, index } = field.type;
  const where = `${owner.name}.${field.name}`;
  if (SCALARS[base]) {
    if (SCALARS[base].float && field.defaultReal !== 0) unsupported(`the float default of ${where}`);
    return {
      kind: 'scalar',
      scalar: SCALARS[base],
      bytes: SCALARS[base].bytes,
      alignment: SCALARS[base].bytes,
    };
  }
  if (base === 'string') return { kind: 'string', bytes: 4, alignment: 4 };
  if (base === 'union') return { kind: 'union', union: schema.enums[index], bytes: 4, alignment: 4 };
  if (base === 'object') {
    const object = schema.objects[index];
    return object.isStruct
      ? { kind: 'struct', object, bytes: object.bytes, alignment: object.alignment }
      : { kind: 'table', object, bytes: 4, alignment: 4 };
  }
  if (base === 'vector') {
    if (SCALARS[element]) {
      const { bytes } = SCALARS[element];
      return { kind: 'vector', elementBytes: bytes, elementAlignment: bytes, bytes: 4, alignment: 4 };
    }
    if (element === 'object') {
      const object = schema.objects[index];
      return object.isStruct
        ? {
            kind: 'vector',
            elementBytes: object.bytes,
            elementAlignment: object.alignment,
            bytes: 4,
            alignment: 4,
          }
        : { kind: 'tables', object, bytes: 4, alignment: 4 };
    }
    unsupported(`${where}, a vector of ${element}s,`);
  }
  return unsupported(`${where}, a ${base},`);
}

/** Places all fields behind the 4-byte vtable distance, the widest first: every table of one type has the same shape. */
function shapeOf(schema, table) {
  const fields = table.fields.filter((field) => !field.deprecated);
  const laid = fields.map((field) => ({ ...field, slot: field.offset, ...layoutOf(schema, table, field) }));
  const alignment = Math.max(4, ...laid.map((field) => field.alignment));
  if (alignment > 8) unsupported(`${table.name}, aligned to ${alignment},`);
  let end = 4;
  for (const field of laid.toSorted((a, b) => b.alignment - a.alignment || a.id - b.id)) {
    if ((end - (alignment === 8 ? 4 : 0)) % field.alignment !== 0)
      unsupported(`the padding inside ${table.name}`);
    field.at = end;
    end += field.bytes;
  }
  const slots = Math.max(-1, ...table.fields.map((field) => field.id)) + 1;
  const vtableBytes = 4 + 2 * slots;
  const entries = [vtableBytes, end, ...new Array(slots).fill(0)];
  for (const field of laid) entries[2 + field.id] = field.at;
  return { fields: laid, bytes: end, alignment, remainder: alignment === 8 ? 4 : 0, vtableBytes, entries };
}

const defaultOf = (field) => {
  if (field.type.base === 'bool') return field.defaultInteger === 0n ? 'false' : 'true';
  return String(field.defaultInteger);
};

function writeReader(field) {
  const { name, slot } = field;
  switch (field.kind) {
    case 'scalar': {
      const { type, store = type, float } = field.scalar;
      const value = type === 'bool' ? 'load<u8>(at) != 0' : `load<${store}>(at)`;
      return [
        `  export function ${name}${float ? '_bits' : ''}(table: usize): ${type} {`,
        `    const at = wire.field_at(table, ${slot});`,
        `    return at != 0 ? ${value} : ${float ? '0' : defaultOf(field)};`,
        '  }',
      ];
    }
    case 'struct':
      return [`  export function ${name}(table: usize): usize { return wire.field_at(table, ${slot}); }`];
    case 'table':
    case 'union':
      return [`  export function ${name}(table: usize): usize { return wire.table_at(table, ${slot}); }`];
    case 'tables':
      return [
        `  export function ${name}_at(table: usize, i: u32): usize { return wire.table_of_vector(table, ${slot}, i); }`,
        `  export function ${name}_length(table: usize): u32 { return wire.vector_length(table, ${slot}); }`,
      ];
    default:
      return [
        `  export function ${name}(table: usize): usize { return wire.vector_at(table, ${slot}); }`,
        `  export function ${name}_length(table: usize): u32 { return wire.vector_length(table, ${slot}); }`,
      ];
  }
}

function writeCheck(schema, table, field) {
  const { name, slot } = field;
  const refuse = (condition) => `    if (${condition}) return false;`;
  switch (field.kind) {
    case 'scalar':
    case 'struct':
      return [refuse(`!wire.verify_field(buffer, table, ${slot}, ${field.bytes}, ${field.alignment})`)];
    case 'string':
      return [refuse(`!wire.verify_string(buffer, end, table, ${slot})`)];
    case 'vector':
      return [
        refuse(
          `!wire.verify_vector(buffer, end, table, ${slot}, ${field.elementBytes}, ${field.elementAlignment})`,
        ),
      ];
    case 'table':
      return [
        `    if (wire.field_at(table, ${slot}) != 0) {`,
        `      const child = wire.verified_table_at(buffer, end, table, ${slot});`,
        `      if (child == 0 || !${field.object.name}.verify(buffer, end, child)) return false;`,
        '    }',
      ];
    case 'tables':
      return [
        refuse(`!wire.verify_vector(buffer, end, table, ${slot}, 4, 4)`),
        `    for (let i: u32 = 0, count = ${name}_length(table); i < count; i++) {`,
        `      const child = wire.verified_table_of_vector(buffer, end, table, ${slot}, i);`,
        `      if (child == 0 || !${field.object.name}.verify(buffer, end, child)) return false;`,
        '    }',
      ];
    case 'union': {
      const members = field.union.values.filter((value) => value.object >= 0 && value.value !== 0n);
      return [
        `    if (${name}_type(table) == 0) {`,
        `      if (wire.field_at(table, ${slot}) != 0) return false;`,
        '    } else {',
        `      const child = wire.verified_table_at(buffer, end, table, ${slot});`,
        '      if (child == 0) return false;',
        `      switch (${name}_type(table)) {`,
        ...members.map(
          ({ value, object }) =>
            `        case ${value}: if (!${schema.objects[object].name}.verify(buffer, end, child)) return false; break;`,
        ),
        '        default: return false;',
        '      }',
        '    }',
      ];
    }
    default:
      return unsupported(`${table.name}.${name}`);
  }
}

function writeWriter(field) {
  const { name, at } = field;
  switch (field.kind) {
    case 'scalar': {
      if (field.type.base === 'union_type') return [];
      const { type, store = type, float } = field.scalar;
      const bits = float ? '_bits' : '';
      const value = type === 'bool' ? '<u8>value' : 'value';
      return [
        `  export function set_${name}${bits}(table: usize, value: ${type}): void { store<${store}>(table, ${value}, ${at}); }`,
      ];
    }
    case 'struct':
      return [
        `  export function set_${name}(table: usize, source: usize): void { memory.copy(table + ${at}, source, ${field.bytes}); }`,
      ];
    case 'table':
      return [
        `  export function link_${name}(table: usize, child: usize): void { wire.link(table + ${at}, child); }`,
      ];
    case 'union':
      return [
        `  export function link_${name}(table: usize, type: u8, child: usize): void {`,
        `    store<u8>(table, type, ${field.typeAt});`,
        `    wire.link(table + ${at}, child);`,
        '  }',
      ];
    case 'string':
      return [
        `  export function put_${name}(table: usize, cursor: usize, source: usize, count: u32): usize {`,
        `    return wire.put_string(table + ${at}, cursor, source, count);`,
        '  }',
      ];
    case 'vector': {
      const alignment = Math.max(4, field.elementAlignment);
      return [
        `  export function put_${name}(table: usize, cursor: usize, source: usize, count: u32): usize {`,
        `    return wire.put_vector(table + ${at}, cursor, source, count, ${field.elementBytes}, ${alignment});`,
        '  }',
      ];
    }
    default:
      return []; // vectors of tables enter the core, none leaves it
  }
}

/** The vtable as 8-byte constants, so that opening a table costs a few stores. */
function writeVtable(entries) {
  const lines = [];
  for (let first = 0; first < entries.length; ) {
    const width = entries.length - first >= 4 ? 4 : entries.length - first >= 2 ? 2 : 1;
    const bits = entries
      .slice(first, first + width)
      .reduceRight((sum, entry) => sum * 65536n + BigInt(entry), 0n);
    lines.push(`    store<u${16 * width}>(vtable, 0x${bits.toString(16)}, ${2 * first});`);
    first += width;
  }
  return lines;
}

function writeTable(schema, table) {
  const shape = shapeOf(schema, table);
  for (const field of shape.fields) {
    if (field.kind === 'union') field.typeAt = shape.fields.find((other) => other.id === field.id - 1).at;
  }
  const writable = shape.fields.every((field) => field.kind !== 'tables');
  const gaps = shape.fields.reduce(
    (sum, field) => sum + ({ vector: 4 + (field.elementAlignment ?? 0), string: 9 }[field.kind] ?? 0),
    shape.alignment + shape.remainder,
  );
  const lines = [
    `export namespace ${table.name} {`,
    ...shape.fields.flatMap(writeReader),
    '  export function verify(buffer: usize, end: usize, table: usize): bool {',
    '    if (!wire.verify_table(buffer, end, table)) return false;',
    ...shape.fields.flatMap((field) => writeCheck(schema, table, field)),
    '    return true;',
    '  }',
  ];
  if (writable) {
    lines.push(
      '  // Most bytes that the table takes, vtable, gaps, counts and all, but for the elements of its vectors and strings.',
      `  export const OVERHEAD_BYTES: u32 = ${shape.vtableBytes + shape.bytes + gaps};`,
      '  export function start(cursor: usize): usize {',
      `    const table = wire.open_table(cursor, ${shape.vtableBytes}, ${shape.bytes}, ${shape.alignment}, ${shape.remainder});`,
      `    const vtable = table - ${shape.vtableBytes};`,
      ...writeVtable(shape.entries),
      '    return table;',
      '  }',
      `  export function end_of(table: usize): usize { return table + ${shape.bytes}; }`,
      ...shape.fields.flatMap(writeWriter),
    );
  }
  lines.push(
    '  export function root(buffer: usize): usize { return buffer + <usize>load<u32>(buffer); }',
    '  export function verify_root(buffer: usize, bytes: u32): bool {',
    '    const table = wire.verified_root(buffer, bytes);',
    '    return table != 0 && verify(buffer, buffer + <usize>bytes, table);',
    '  }',
  );
  if (writable) {
    lines.push(
      '  export function start_root(buffer: usize): usize {',
      '    const table = start(buffer + 4);',
      '    wire.link(buffer, table);',
      '    return table;',
      '  }',
    );
  }
  return [...lines, '}', ''];
}

function writeStruct(struct) {
  const lines = [`export namespace ${struct.name} {`, `  export const BYTES: usize = ${struct.bytes};`];
  for (const field of struct.fields) {
    const scalar =
      SCALARS[field.type.base] ?? unsupported(`${struct.name}.${field.name}, a ${field.type.base},`);
    const { type, float } = scalar;
    const value =
      type === 'bool' ? `load<u8>(struct, ${field.offset}) != 0` : `load<${type}>(struct, ${field.offset})`;
    lines.push(
      `  export const AT_${field.name}: usize = ${field.offset};`,
      `  export function ${field.name}${float ? '_bits' : ''}(struct: usize): ${type} { return ${value}; }`,
    );
  }
  return [...lines, '}', ''];
}

function writeEnum(declared) {
  const type = SCALARS[declared.underlying].type;
  return [
    `export namespace ${declared.name} {`,
    ...declared.values.map(({ name, value }) => `  export const ${name}: ${type} = ${value};`),
    '}',
    '',
  ];
}

/** The objects that an object's verifier calls, for imports and for the check that the depth is bounded. */
function referencesOf(schema, table) {
  if (table.isStruct) return [];
  return shapeOf(schema, table).fields.flatMap((field) => {
    if (field.kind === 'table' || field.kind === 'tables') return [field.object];
    if (field.kind !== 'union') return [];
    return field.union.values.filter(({ object }) => object >= 0).map(({ object }) => schema.objects[object]);
  });
}

function refuseRecursion(schema, table, path = []) {
  if (path.includes(table)) {
    throw new Error(
      `schemas: ${table.name} contains itself; the verifier's depth would be the sender's choice`,
    );
  }
  for (const child of referencesOf(schema, table)) refuseRecursion(schema, child, [...path, table]);
}

/**
 * @param {string} name the schema whose declarations are written, `command` of command.fbs
 * @param {object} schema what readSchema gave for it, included declarations and all
 * @returns {string} the text of assembly/wire/generated/<name>.ts
 */
export function writeAccessors(name, schema) {
  const objects = schema.objects
    .filter((object) => object.schema === name)
    .sort((a, b) => (a.name < b.name ? -1 : 1));
  const imports = new Map();
  for (const object of objects) {
    refuseRecursion(schema, object);
    for (const child of referencesOf(schema, object)) {
      if (child.schema === name) continue;
      imports.set(child.schema, (imports.get(child.schema) ?? new Set()).add(child.name));
    }
  }
  const lines = [`// Generated from schemas/${name}.fbs by \`npm run generate\`. Do not edit.`, ''];
  if (objects.some((object) => !object.isStruct)) lines.push("import * as wire from '../flatbuffer';");
  for (const [from, names] of [...imports].sort(([a], [b]) => (a < b ? -1 : 1))) {
    lines.push(`import { ${[...names].sort().join(', ')} } from './${from}';`);
  }
  if (lines.length > 2) lines.push('');
  const enums = schema.enums
    .filter((declared) => declared.schema === name)
    .sort((a, b) => (a.name < b.name ? -1 : 1));
  for (const declared of enums) lines.push(...writeEnum(declared));
  for (const object of objects)
    lines.push(...(object.isStruct ? writeStruct(object) : writeTable(schema, object)));
  return lines.join('\n');
}
