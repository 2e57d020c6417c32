"""FlatBuffers messages that nobody vouches for.

A message may come from anywhere, so every table, vtable, vector and string must lie inside of it, aligned, before a byte of it is
used; the first thing that does not raises `Malformed`. Offsets are compared before they are followed, and nothing is allocated by a
count that was not compared with the bytes at hand. Arrays are views into the message.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_U8 = struct.Struct('<B')
_U16 = struct.Struct('<H')
_U32 = struct.Struct('<I')
_I32 = struct.Struct('<i')
_U64 = struct.Struct('<Q')


class Malformed(Exception):
    """What is wrong with a message, as a clause."""


def require(holds: bool, what: str) -> None:
    if not holds:
        raise Malformed(what)


@dataclass(frozen=True)
class Message:
    bytes: memoryview

    def root(self) -> Table:
        require(len(self.bytes) >= 8, 'a message is shorter than its root')
        return self.table(_U32.unpack_from(self.bytes, 0)[0])

    def table(self, at: int) -> Table:
        self.require_inside(at, 4, 4)
        vtable = at - int(_I32.unpack_from(self.bytes, at)[0])
        self.require_inside(vtable, 4, 2)
        vtable_bytes = int(_U16.unpack_from(self.bytes, vtable)[0])
        table_bytes = int(_U16.unpack_from(self.bytes, vtable + 2)[0])
        require(vtable_bytes >= 4 and vtable_bytes % 2 == 0 and table_bytes >= 4, 'a table is malformed')
        self.require_inside(vtable, vtable_bytes, 2)
        self.require_inside(at, table_bytes, 4)
        return Table(self, at, vtable, vtable_bytes, table_bytes)

    def require_inside(self, at: int, count: int, alignment: int) -> None:
        require(
            at >= 0 and at % alignment == 0 and at + count <= len(self.bytes),
            'something lies outside of its message',
        )


@dataclass(frozen=True)
class Table:
    """Fields are named by their number in the schema, from 0; a union takes two, its type and its table."""

    message: Message
    at: int
    vtable: int
    vtable_bytes: int
    table_bytes: int

    def field(self, number: int, count: int, alignment: int) -> int | None:
        """Where a field of so many bytes lies; None when it is absent."""
        entry = 4 + 2 * number
        if entry >= self.vtable_bytes:
            return None
        offset = int(_U16.unpack_from(self.message.bytes, self.vtable + entry)[0])
        if offset == 0:
            return None
        require(
            offset >= 4 and offset + count <= self.table_bytes and (self.at + offset) % alignment == 0,
            'a field lies outside of its table',
        )
        return self.at + offset

    def u8(self, number: int) -> int:
        return self._scalar(number, _U8)

    def u16(self, number: int) -> int:
        return self._scalar(number, _U16)

    def u32(self, number: int) -> int:
        return self._scalar(number, _U32)

    def i32(self, number: int) -> int:
        return self._scalar(number, _I32)

    def u64(self, number: int) -> int:
        return self._scalar(number, _U64)

    def _scalar(self, number: int, kind: struct.Struct) -> int:
        at = self.field(number, kind.size, kind.size)
        return 0 if at is None else int(kind.unpack_from(self.message.bytes, at)[0])

    def struct(self, number: int, kind: struct.Struct, alignment: int) -> tuple[Any, ...] | None:
        at = self.field(number, kind.size, alignment)
        return None if at is None else kind.unpack_from(self.message.bytes, at)

    def vector(self, number: int, element_bytes: int, alignment: int) -> tuple[int, int] | None:
        """First element and count; None when absent."""
        field = self.field(number, 4, 4)
        if field is None:
            return None
        vector = self._target(field)
        self.message.require_inside(vector, 4, 4)
        count = int(_U32.unpack_from(self.message.bytes, vector)[0])
        self.message.require_inside(vector + 4, count * element_bytes, 1 if count == 0 else alignment)
        return vector + 4, count

    def array(self, number: int, dtype: str | np.dtype[Any], alignment: int | None = None) -> Array:
        """A vector of numbers or structs; empty when absent."""
        kind = np.dtype(dtype)
        place = self.vector(number, kind.itemsize, alignment or kind.itemsize)
        if place is None or place[1] == 0:
            return np.empty(0, kind)
        return np.frombuffer(self.message.bytes, kind, count=place[1], offset=place[0])

    def inner(self, number: int) -> memoryview | None:
        """The bytes of a message inside this one; None when absent."""
        place = self.vector(number, 1, 8)
        return None if place is None else self.message.bytes[place[0] : place[0] + place[1]]

    def string(self, number: int) -> str:
        place = self.vector(number, 1, 1)
        if place is None:
            return ''
        at, count = place
        self.message.require_inside(at, count + 1, 1)
        require(self.message.bytes[at + count] == 0, 'a string has no end')
        return str(self.message.bytes[at : at + count], 'utf-8', 'replace')

    def table(self, number: int) -> Table:
        """A table that must be there."""
        field = self.field(number, 4, 4)
        if field is None:
            raise Malformed('a table is missing')
        return self.message.table(self._target(field))

    def tables(self, number: int, least_bytes: int) -> list[Table]:
        """A vector of tables, of which each takes so many bytes at least: several entries for one table are not taken."""
        place = self.vector(number, 4, 4)
        if place is None:
            return []
        at, count = place
        require(
            count * least_bytes <= len(self.message.bytes), 'a vector names more tables than there can be'
        )
        return [self.message.table(self._target(at + 4 * i)) for i in range(count)]

    def _target(self, field: int) -> int:
        return field + int(_U32.unpack_from(self.message.bytes, field)[0])
