"""Commands of a trace: columns of all of them, and of the requests that they add.

What stands in a trace is what the core was given. A command that is no valid message is given as kind 'malformed': the core refused
it, and the trace is right to say so.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import numpy as np

from ._flatbuffers import Array, Malformed, Message, Table

#: SamplingParams of schemas/types.fbs, up to its reserved end.
_PARAMS = struct.Struct('<QffffffIIIiiB?H')
_PARAM_COLUMNS = {
    'seed': 'u8',
    'temperature': 'f4',
    'top_p': 'f4',
    'min_p': 'f4',
    'repetition_penalty': 'f4',
    'presence_penalty': 'f4',
    'frequency_penalty': 'f4',
    'top_k': 'u4',
    'max_tokens': 'u4',
    'min_tokens': 'u4',
    'logprobs': 'i4',
    'prompt_logprobs': 'i4',
    'logprobs_mode': 'O',
    'ignore_eos': '?',
}
_NAN = float('nan')
#: Of a request without sampling parameters, which the core refuses.
_NO_PARAMS = (0, _NAN, _NAN, _NAN, _NAN, _NAN, _NAN, 0, 0, 0, -1, -1, 0, False, 0)
_LOGPROBS_MODES = ('raw', 'processed')

REQUEST_COLUMNS = {
    'id': 'u8',
    'after_step': 'i8',
    'time_us': 'i8',
    'command': 'i8',
    'n': 'u4',
    'priority': 'i4',
    'adapter': 'u4',
    'cache_salt': 'u8',
    'num_prompt_tokens': 'i8',
    **_PARAM_COLUMNS,
    'prompt_token_ids': 'O',
    'stop_token_ids': 'O',
    'bias_token_ids': 'O',
    'bias': 'O',
}
COMMAND_COLUMNS = {
    'after_step': 'i8',
    'time_us': 'i8',
    'rounds': 'i8',
    'id': 'u8',
    'kind': 'O',
    'details': 'O',
}

#: A Request with its sampling parameters takes more than this, so fewer of them fit into a command than it has bytes by this.
_LEAST_REQUEST_BYTES = 64

CONFIGURE_FIELDS = (
    'max_num_seqs',
    'max_num_batched_tokens',
    'max_model_len',
    'num_blocks',
    'block_size',
    'vocab_size',
    'max_num_requests',
    'long_prefill_token_threshold',
    'enable_prefix_cache',
    'max_steps_in_flight',
    'max_n',
    'max_logprobs',
    'token_heap_bytes',
    'eos_token_ids',
)


def read_configure(table: Table) -> dict[str, Any]:
    numbers = [table.u32(field) for field in range(8)]
    more = [table.u32(field) for field in range(9, 12)]
    eos = table.array(13, '<i4')
    return dict(zip(CONFIGURE_FIELDS, [*numbers, table.u8(8) != 0, *more, table.u64(12), eos], strict=True))


def _abort_requests(table: Table) -> dict[str, Any]:
    return {'request_ids': table.array(0, '<u8'), 'all': table.u8(1) != 0}


def _pause(table: Table) -> dict[str, Any]:
    return {'mode': _named(('abort', 'wait', 'keep', 'retract'), table.u8(0))}


def _tags(bits: int) -> list[str]:
    return [name for at, name in enumerate(('kv_cache', 'weights')) if bits >> at & 1]


def _named(names: tuple[str, ...], number: int) -> str:
    return names[number] if number < len(names) else str(number)


def _nothing(_: Table) -> dict[str, Any]:
    return {}


#: By the number of the union's member: its name, and what its table says. AddRequests says more, in columns of its own.
_KINDS: dict[int, tuple[str, Callable[[Table], dict[str, Any]]]] = {
    1: ('configure', read_configure),
    2: ('add_requests', _nothing),
    3: ('abort_requests', _abort_requests),
    4: ('pause_generation', _pause),
    5: ('resume_generation', _nothing),
    6: ('reset_prefix_cache', lambda table: {'force': table.u8(0) != 0}),
    7: ('begin_weight_update', _nothing),
    8: ('finish_weight_update', lambda table: {'version': table.u64(0), 'succeeded': table.u8(1) != 0}),
    9: ('release_memory', lambda table: {'tags': _tags(table.u8(0)), 'abort_running': table.u8(1) != 0}),
    10: ('resume_memory', lambda table: {'tags': _tags(table.u8(0))}),
    11: (
        'load_adapter',
        lambda table: {'adapter': table.u32(0), 'name': table.string(1), 'path': table.string(2)},
    ),
    12: ('unload_adapter', lambda table: {'adapter': table.u32(0)}),
    13: (
        'set_parallel_groups',
        lambda table: {
            'tensor_parallel_size': table.u32(0),
            'pipeline_parallel_size': table.u32(1),
            'data_parallel_size': table.u32(2),
            'rank': table.u32(3),
        },
    ),
    14: ('shutdown', _nothing),
}
_ROWS_IN_PIECE = 4096


def payload_of(command: memoryview) -> tuple[int, str, Table, dict[str, Any]]:
    """Id, kind, table and fields of a Command."""
    root = Message(command).root()
    kind = _KINDS.get(root.u8(1))
    if kind is None:
        raise Malformed(f'a command is of kind {root.u8(1)}, which this version does not know')
    table = root.table(2)
    return root.u64(0), kind[0], table, kind[1](table)


class Rows:
    """Rows that become columns, some thousands at a time: as tuples they would take several times the memory."""

    def __init__(self, kinds: dict[str, str]) -> None:
        self._kinds = kinds
        self._rows: list[tuple[Any, ...]] = []
        self._pieces: list[list[Array]] = []
        self.count = 0

    def extend(self, rows: list[tuple[Any, ...]]) -> None:
        self._rows.extend(rows)
        self.count += len(rows)
        if len(self._rows) >= _ROWS_IN_PIECE:
            self._pack()

    def columns(self) -> dict[str, Array]:
        self._pack()
        return {
            name: np.concatenate([piece[at] for piece in self._pieces]) for at, name in enumerate(self._kinds)
        }

    def _pack(self) -> None:
        rows = self._rows
        self._pieces.append(
            [
                np.fromiter((row[at] for row in rows), kind, len(rows))
                for at, kind in enumerate(self._kinds.values())
            ]
        )
        self._rows = []


class CommandColumns:
    """Gathers commands, one after the other, until they become columns."""

    def __init__(self) -> None:
        self._commands = Rows(COMMAND_COLUMNS)
        self._requests = Rows(REQUEST_COLUMNS)

    def add(self, command: memoryview, *, after_step: int, time_us: int, rounds: int) -> None:
        place = (after_step, time_us, self._commands.count)
        requests: list[tuple[Any, ...]] = []
        try:
            id_, kind, table, details = payload_of(command)
            if kind == 'add_requests':
                tables = table.tables(0, _LEAST_REQUEST_BYTES)
                requests = [(request.u64(0), *place, *_request(request)) for request in tables]
                details = {'num_requests': len(requests)}
        except Malformed as error:
            id_, kind, details = 0, 'malformed', {'why': str(error)}
        self._commands.extend([(after_step, time_us, rounds, id_, kind, details)])
        self._requests.extend(requests)

    def commands(self) -> dict[str, Array]:
        return self._commands.columns()

    def requests(self) -> dict[str, Array]:
        return self._requests.columns()


def _request(request: Table) -> tuple[Any, ...]:
    prompt = request.array(1, '<i4')
    params = request.struct(6, _PARAMS, 8) or _NO_PARAMS
    *numbers, mode, ignore_eos, _ = params
    return (
        request.u32(2),
        request.i32(3),
        request.u32(4),
        request.u64(5),
        len(prompt),
        *numbers,
        _named(_LOGPROBS_MODES, mode),
        ignore_eos,
        prompt,
        request.array(7, '<i4'),
        request.array(8, '<i4'),
        request.array(9, '<f4'),
    )
