// FlatBuffers by raw pointers: what the generated accessors are made of.
//
//   buffer -> [root offset u32] ... [vtable: bytes u16, table bytes u16, field offsets u16 ...] [table: vtable distance i32, fields ...]
//   vector -> [count u32][elements ...]          offsets point forward, from where they stand
//
// Reading. `field_at`, `vector_at`, ... trust their input: call them on a table that its `verify` has accepted.
// Verifying. Everything between `buffer` and `end` may be hostile. Nothing outside is read, every sum is compared before it
//   is made (an address never wraps), and the depth is that of the schema.
// Writing. Forward, at a cursor: a table first, then what it points to. All gaps are zeroed, so equal content gives equal
//   bytes. The caller has made sure that the buffer is large enough; buffers start at multiples of 16.

/** Address of a field, 0 if the table does not have it. `slot` is the field's place in the vtable, in bytes. */
export function field_at(table: usize, slot: u32): usize {
  const vtable = table - <usize>load<i32>(table);
  if (slot >= <u32>load<u16>(vtable)) return 0;
  const offset = <usize>load<u16>(vtable + slot);
  return offset != 0 ? table + offset : 0;
}

/** First element of a vector (first byte of a string), 0 if absent. */
export function vector_at(table: usize, slot: u32): usize {
  const field = field_at(table, slot);
  return field != 0 ? field + <usize>load<u32>(field) + 4 : 0;
}

/** Number of elements (bytes of a string, without its 0), 0 if absent. */
export function vector_length(table: usize, slot: u32): u32 {
  const field = field_at(table, slot);
  return field != 0 ? load<u32>(field + <usize>load<u32>(field)) : 0;
}

/** A table that a field points to, 0 if absent. */
export function table_at(table: usize, slot: u32): usize {
  const field = field_at(table, slot);
  return field != 0 ? field + <usize>load<u32>(field) : 0;
}

/** The i-th table of a vector of tables. */
export function table_of_vector(table: usize, slot: u32, i: u32): usize {
  const entry = vector_at(table, slot) + ((<usize>i) << 2);
  return entry + <usize>load<u32>(entry);
}

/** Where the offset at `at` points to; 0 unless `bytes` are there, aligned. `at` itself has been checked. */
function verified_target(buffer: usize, end: usize, at: usize, bytes: usize, alignment: usize): usize {
  const offset = <usize>load<u32>(at);
  if (offset == 0 || offset > end - at) return 0;
  const target = at + offset;
  if (end - target < bytes || ((target - buffer) & (alignment - 1)) != 0) return 0;
  return target;
}

/** A message of `bytes` at `buffer`: its root table, 0 if there can be none. */
export function verified_root(buffer: usize, bytes: u32): usize {
  if (bytes < 8) return 0;
  return verified_target(buffer, buffer + <usize>bytes, buffer, 4, 4);
}

/** The table's own bytes and its vtable lie inside; its fields are then checked one by one. */
export function verify_table(buffer: usize, end: usize, table: usize): bool {
  if (table < buffer || table > end || end - table < 4 || ((table - buffer) & 3) != 0) return false;
  const vtable_wide = <i64>table - <i64>load<i32>(table);
  if (vtable_wide < <i64>buffer || vtable_wide > <i64>end - 4 || ((vtable_wide - <i64>buffer) & 1) != 0)
    return false;
  const vtable = <usize>vtable_wide;
  const vtable_bytes = <usize>load<u16>(vtable);
  const table_bytes = <usize>load<u16>(vtable, 2);
  return (
    vtable_bytes >= 4 &&
    (vtable_bytes & 1) == 0 &&
    vtable_bytes <= end - vtable &&
    table_bytes >= 4 &&
    table_bytes <= end - table
  );
}

/** A field is absent, or it lies inside its table, aligned. The table has passed `verify_table`. */
export function verify_field(buffer: usize, table: usize, slot: u32, bytes: usize, alignment: usize): bool {
  const field = field_at(table, slot);
  if (field == 0) return true;
  const table_bytes = <usize>load<u16>(table - <usize>load<i32>(table), 2);
  return (
    field - table >= 4 && field - table + bytes <= table_bytes && ((field - buffer) & (alignment - 1)) == 0
  );
}

/** A vector is absent, or its count and elements lie inside, aligned. */
export function verify_vector(
  buffer: usize,
  end: usize,
  table: usize,
  slot: u32,
  element_bytes: u32,
  alignment: usize,
): bool {
  if (!verify_field(buffer, table, slot, 4, 4)) return false;
  const field = field_at(table, slot);
  if (field == 0) return true;
  const vector = verified_target(buffer, end, field, 4, 4);
  if (vector == 0) return false;
  const count = load<u32>(vector);
  if (<u64>count * <u64>element_bytes > <u64>(end - vector - 4)) return false;
  return count == 0 || ((vector + 4 - buffer) & (alignment - 1)) == 0;
}

/** A string is absent, or lies inside together with the 0 behind its last byte. */
export function verify_string(buffer: usize, end: usize, table: usize, slot: u32): bool {
  if (!verify_vector(buffer, end, table, slot, 1, 1)) return false;
  if (field_at(table, slot) == 0) return true;
  const last = vector_at(table, slot) + <usize>vector_length(table, slot);
  return last < end && load<u8>(last) == 0;
}

/** Where the i-th offset of a vector of tables points to; 0 if outside. The vector has passed `verify_vector`. */
export function verified_table_of_vector(buffer: usize, end: usize, table: usize, slot: u32, i: u32): usize {
  return verified_target(buffer, end, vector_at(table, slot) + ((<usize>i) << 2), 4, 4);
}

/** Where a sub-table is; 0 if its offset is absent or leads outside. Distinguish the two by `field_at`. */
export function verified_table_at(buffer: usize, end: usize, table: usize, slot: u32): usize {
  if (!verify_field(buffer, table, slot, 4, 4)) return 0;
  const field = field_at(table, slot);
  return field != 0 ? verified_target(buffer, end, field, 4, 4) : 0;
}

/** Zeroes [cursor, to). */
export function zero_until(cursor: usize, to: usize): void {
  if (to != cursor) memory.fill(cursor, 0, to - cursor);
}

/**
 * Zeroes up to where a table may start: behind its vtable, at `remainder` modulo `alignment`. Returns the table.
 * 8-aligned tables stand at 4 modulo 8, so that their 8-byte fields follow the vtable distance without a gap.
 */
export function open_table(
  cursor: usize,
  vtable_bytes: usize,
  table_bytes: usize,
  alignment: usize,
  remainder: usize,
): usize {
  const table = ((cursor + vtable_bytes - remainder + alignment - 1) & ~(alignment - 1)) + remainder;
  zero_until(cursor, table - vtable_bytes);
  memory.fill(table, 0, table_bytes);
  store<i32>(table, <i32>vtable_bytes);
  return table;
}

/** Points the offset field at `field` to `target`, which comes after it. */
export function link(field: usize, target: usize): void {
  store<u32>(field, <u32>(target - field));
}

/** Writes a vector behind the cursor, points `field` to it and returns the new cursor. */
export function put_vector(
  field: usize,
  cursor: usize,
  source: usize,
  count: u32,
  element_bytes: u32,
  alignment: usize,
): usize {
  const elements = (cursor + 4 + alignment - 1) & ~(alignment - 1);
  const vector = elements - 4;
  zero_until(cursor, vector);
  link(field, vector);
  store<u32>(vector, count);
  const bytes = <usize>count * <usize>element_bytes;
  memory.copy(elements, source, bytes);
  return elements + bytes;
}

/** Writes a string and the 0 behind it. */
export function put_string(field: usize, cursor: usize, source: usize, count: u32): usize {
  const last = put_vector(field, cursor, source, count, 1, 4);
  store<u8>(last, 0);
  return last + 1;
}
