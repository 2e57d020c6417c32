"""The file around a trace's tables: a preamble, then frames, each with a checksum (docs/trace-format.md).

Nothing is unpacked before its checksum was compared, and no length is believed beyond the file's size and the caps below.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import xxhash

TRACE_VERSION = 1
MAX_FRAME_BYTES = 2**28

_MAGIC = b'KADENZTR'
_PREAMBLE = struct.Struct('<8sII')
_HEAD = struct.Struct('<IIIIQ')
_CHECKED_HEAD_BYTES = 16
_CODEC_NONE = 0
_CODEC_ZSTD = 1


class TraceError(Exception):
    """A trace that can't be read at all. `code` is trace_not_found, trace_unsupported or trace_corrupt."""

    __module__ = 'kadenz.trace'  # where it is imported from

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


@dataclass(frozen=True)
class TraceProblem:
    """Why a trace ends before its run did. What comes before it is good."""

    #: 'cut': the file ends within a frame, or without an end frame. 'corrupt': a frame is not what was written.
    kind: str
    #: Of the frame, in bytes from the start of the file.
    offset: int
    #: Its number; 0 is the header.
    frame: int
    sentence: str


@dataclass(frozen=True)
class Frame:
    number: int
    offset: int
    payload: memoryview

    def damaged(self, what: str) -> TraceProblem:
        return _damaged(self.number, self.offset, what)


def _damaged(number: int, offset: int, what: str) -> TraceProblem:
    return TraceProblem('corrupt', offset, number, f'frame {number} at byte {offset} is damaged: {what}.')


def read_frames(path: str | os.PathLike[str], max_unpacked_bytes: int) -> Iterator[Frame | TraceProblem]:
    """All frames, the header's first; a problem is the last that is given. Frames after the end are for the caller to leave."""
    name = os.fspath(path)
    try:
        with open(name, 'rb') as file:
            yield from _FrameReader(name, file, max_unpacked_bytes).frames()
    except OSError as error:
        raise TraceError(
            'trace_not_found', f"The trace {name} can't be read: {error.strerror or error}."
        ) from error


class _FrameReader:
    def __init__(self, path: str, file: BinaryIO, max_unpacked_bytes: int) -> None:
        self._path = path
        self._file = file
        self._file_bytes = os.fstat(file.fileno()).st_size
        self._max_unpacked_bytes = max_unpacked_bytes
        self._unpacked_bytes = 0

    def frames(self) -> Iterator[Frame | TraceProblem]:
        self._require_version(self._read(_PREAMBLE.size))
        at, number = _PREAMBLE.size, 0
        while True:
            frame = self._frame(number, at)
            yield frame
            if isinstance(frame, TraceProblem):
                return
            at, number = self._file.tell(), number + 1

    def _require_version(self, preamble: bytes) -> None:
        if len(preamble) < _PREAMBLE.size or not preamble.startswith(_MAGIC):
            raise TraceError(
                'trace_unsupported', f'{self._path} is no trace of Kadenz: it does not begin like one.'
            )
        require_version(self._path, _PREAMBLE.unpack(preamble)[1])

    def _read(self, count: int) -> bytes:
        """At most what was in the file when it was opened: it may be growing."""
        return self._file.read(max(0, min(count, self._file_bytes - self._file.tell())))

    def _frame(self, number: int, offset: int) -> Frame | TraceProblem:
        def cut(sentence: str) -> TraceProblem:
            return TraceProblem('cut', offset, number, sentence)

        head = self._read(_HEAD.size)
        if len(head) == 0 and number == 0:
            return cut('the trace ends before its first frame.')
        if len(head) == 0:
            return cut(
                f'the trace ends after frame {number - 1}, without an end: its run was killed, or goes on.'
            )
        if len(head) < _HEAD.size:
            return cut(f'the trace ends in the head of frame {number}, at byte {self._file_bytes}.')
        stored_bytes, raw_bytes, codec, _, checksum = _HEAD.unpack(head)
        if stored_bytes > MAX_FRAME_BYTES or raw_bytes > MAX_FRAME_BYTES:
            return _damaged(number, offset, 'its length is impossible')
        stored = self._read(stored_bytes)
        if len(stored) < stored_bytes:
            return cut(f'the trace ends within frame {number}, at byte {self._file_bytes}.')
        hasher = xxhash.xxh3_64(head[:_CHECKED_HEAD_BYTES])
        hasher.update(stored)
        if hasher.intdigest() != checksum:
            return _damaged(number, offset, 'its checksum does not fit')
        self._unpacked_bytes += raw_bytes
        if self._unpacked_bytes > self._max_unpacked_bytes:
            raise TraceError(
                'trace_unsupported',
                f'{self._path} unpacks to more than {self._max_unpacked_bytes} bytes, which is the limit here: '
                'raise max_unpacked_bytes if this machine has the memory.',
            )
        payload = _unpacked(stored, codec, raw_bytes)
        if payload is None:
            return _damaged(number, offset, f"its content (codec {codec}) can't be unpacked")
        self._read(-stored_bytes % 8)
        return Frame(number, offset, memoryview(payload))


def require_version(path: str, version: int) -> None:
    if version != TRACE_VERSION:
        raise TraceError(
            'trace_unsupported',
            f'{path} is a trace of version {version}; this Kadenz reads version {TRACE_VERSION}. '
            'Read it with the Kadenz that wrote it, or record the run again.',
        )


def _unpacked(stored: bytes, codec: int, raw_bytes: int) -> bytes | None:
    if codec == _CODEC_NONE:
        return stored if len(stored) == raw_bytes else None
    if codec != _CODEC_ZSTD:
        return None
    try:
        import zstandard
    except ImportError as error:
        raise TraceError(
            'trace_unsupported',
            'This trace is compressed, and the package zstandard that unpacks it is not installed: '
            'run `pip install zstandard`.',
        ) from error
    try:
        # The size is compared first: it is what unpacking allocates.
        if zstandard.frame_content_size(stored) != raw_bytes:
            return None
        payload = zstandard.ZstdDecompressor().decompress(stored, allow_extra_data=False)
    except zstandard.ZstdError:
        return None
    return payload if len(payload) == raw_bytes else None
