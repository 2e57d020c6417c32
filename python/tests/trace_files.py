"""Traces for test_trace.py: recorded by the real core, read by the TypeScript reader, taken apart and sealed again; and the comparison of both readers."""

import json
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash

HERE = Path(__file__).parent
TIMEOUT_S = 300
PREAMBLE_BYTES, HEAD_BYTES = 16, 24
HEADER, STEPS, COMMAND, END = 1, 2, 3, 4


def node(script: str, asked) -> str:
    assert (HERE / '../../dist/trace/index.js').exists(), 'dist/ is not there: run `npm run build` first'
    finished = subprocess.run(
        ['node', str(HERE / script)],
        check=False,
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert finished.returncode == 0, finished.stderr[-4000:]
    return finished.stdout


def record(path: Path, **options) -> Path:
    node('make_trace.mjs', {'path': str(path), **options})
    return path


def read_in_typescript(paths: list[Path]) -> list[dict]:
    return json.loads(node('dump_trace.mjs', [str(path) for path in paths]))


@dataclass
class Part:
    """A frame, as it lies in a file."""

    offset: int
    payload: bytes
    stored: bytes

    @property
    def kind(self) -> int:
        return self.payload[field_at(self.payload, 0)]


def field_at(message: bytes, *path: int, at: int = 0) -> int:
    """Where a field of the message at `at` lies: its number, after those of the tables that lead to it."""
    place = at
    for number in path:
        table = place + struct.unpack_from('<I', message, place)[0]
        vtable = table - struct.unpack_from('<i', message, table)[0]
        place = table + struct.unpack_from('<H', message, vtable + 4 + 2 * number)[0]
    return place


def parts_of(data: bytes) -> list[Part]:
    """Frames of an uncompressed trace."""
    parts, at = [], PREAMBLE_BYTES
    while at < len(data):
        size = struct.unpack_from('<I', data, at)[0]
        end = at + HEAD_BYTES + (size + 7) // 8 * 8
        parts.append(Part(at, data[at + HEAD_BYTES : at + HEAD_BYTES + size], data[at:end]))
        at = end
    return parts


def sealed(payload: bytes, *, raw_bytes: int | None = None, codec: int = 0) -> bytes:
    """A frame whose checksum is right, whatever is in it."""
    head = struct.pack('<IIII', len(payload), len(payload) if raw_bytes is None else raw_bytes, codec, 0)
    checksum = struct.pack('<Q', xxhash.xxh3_64_intdigest(head + payload))
    return head + checksum + payload + bytes(-len(payload) % 8)


#: A Result without a field: what a control step gives.
EMPTY_RESULT = struct.pack('<IHHi', 8, 4, 4, 4)


def steps_payload(
    *,
    first_step=1,
    base_us=0,
    samples=(),
    token_ids=(),
    logprobs=(),
    wholes=(),
    whole_ends=(),
    results=b'',
    plan_ends=(),
) -> bytes:
    """A TraceSteps frame of any content, laid out as on the page about the format; `samples` counts those of each step."""

    def words(values) -> tuple[int, bytes]:
        return len(values), struct.pack(f'<{len(values)}I', *values)

    steps = b''.join(struct.pack('<QIIIHH', 0, 0, 0, count, 0, 0) for count in samples)
    vectors = [
        (0, b''),
        words(plan_ends),
        (len(results), results),
        words(whole_ends),
        words(wholes),
        (len(logprobs), struct.pack(f'<{len(logprobs)}f', *logprobs)),
        words(token_ids),
        (len(samples), steps),
    ]
    head = struct.pack('<I4x4HiI3xB', 16, 8, 12, 11, 4, 8, 32, STEPS)
    vtable = struct.pack('<12H', 24, 56, 44, 36, 32, 28, 24, 20, 16, 12, 8, 4)
    offsets, tail, begin = (
        [],
        b'',
        108,
    )  # where vectors begin: 4 more than a multiple of 8, so that their content is at one
    for at, (count, content) in enumerate(vectors):
        offsets.append(begin + len(tail) - (56 + 4 * at))
        tail += struct.pack('<I', count) + content
        tail += bytes(-len(tail) % 8)
    return head + vtable + struct.pack('<i8IQQ4x', 24, *offsets, base_us, first_step) + tail


def bits(values) -> list[int]:
    return np.asarray(values, 'f4').view('u4').tolist()


def snake(name: str) -> str:
    return ''.join(f'_{letter.lower()}' if letter.isupper() else letter for letter in name).lstrip('_')


def rows_of(columns: dict, *names: str) -> list[tuple]:
    lists = [bits(columns[name]) if columns[name].dtype == 'f4' else columns[name].tolist() for name in names]
    return list(zip(*lists, strict=True))


def expected_tops(steps: list[dict], names: tuple[str, str, str]) -> list[tuple]:
    rows = []
    for step in steps:
        ends, ids, logprobs = (step['result'][name] for name in names)
        for row, end in enumerate(ends):
            begin = ends[row - 1] if row > 0 else 0
            rows += [(step['step'], row, at - begin, ids[at], logprobs[at]) for at in range(begin, end)]
    return rows


def check_steps(trace, steps: list[dict]) -> None:
    scalars = rows_of(
        trace.steps,
        *[
            'step',
            'digest',
            'planned_us',
            'committed_us',
            'rounds',
            'num_samples',
            'num_scores',
            'code',
            'message',
        ],
    )
    tokens, scores = [], []
    for at, step in enumerate(steps):
        result = step['result']
        count = len(result['tokenIds'])
        assert scalars[at] == (
            *(step['step'], int(step['digest']), step['plannedUs'], step['committedUs'], step['rounds']),
            *(count, len(result['scoreLogprobs']), result['code'], result['message']),
        )
        columns = (result['tokenIds'], result['logprobs'], result['ranks'], result['rowCodes'] or [0] * count)
        tokens += [(step['step'], row, *values) for row, values in enumerate(zip(*columns, strict=True))]
        columns = (result['scoreLogprobs'], result['scoreRanks'])
        scores += [(step['step'], row, *values) for row, values in enumerate(zip(*columns, strict=True))]
    assert len(scalars) == len(steps)
    assert rows_of(trace.tokens, 'step', 'row', 'token_id', 'logprob', 'rank', 'code') == tokens
    assert rows_of(trace.scores, 'step', 'row', 'logprob', 'rank') == scores
    columns = ('step', 'row', 'place', 'token_id', 'logprob')
    names = ('topEnds', 'topTokenIds', 'topLogprobs')
    assert rows_of(trace.tops, *columns) == expected_tops(steps, names)
    names = ('scoreTopEnds', 'scoreTopTokenIds', 'scoreTopLogprobs')
    assert rows_of(trace.score_tops, *columns) == expected_tops(steps, names)


def check_commands(trace, commands: list[dict]) -> None:
    expected = [
        (
            each['afterStep'],
            each['timeUs'],
            each['rounds'],
            int(each['command']['id']),
            snake(each['command']['kind']),
        )
        for each in commands
    ]
    assert rows_of(trace.commands, 'after_step', 'time_us', 'rounds', 'id', 'kind') == expected
    requests = [
        {**request, 'after_step': each['afterStep'], 'time_us': each['timeUs'], 'command': at}
        for at, each in enumerate(commands)
        for request in each['command'].get('requests', [])
    ]
    assert set(trace.requests) == {*requests[0], 'num_prompt_tokens'}
    assert trace.requests['num_prompt_tokens'].tolist() == [
        len(each['prompt_token_ids']) for each in requests
    ]
    for name, column in trace.requests.items():
        if name == 'num_prompt_tokens':
            continue
        if column.dtype == object and name != 'logprobs_mode':
            values = [bits(value) if value.dtype == 'f4' else value.tolist() for value in column]
        else:
            values = bits(column) if column.dtype == 'f4' else column.tolist()
        in_64_bits = name in ('id', 'cache_salt', 'seed')
        assert values == [int(each[name]) if in_64_bits else each[name] for each in requests], name


def check(trace, expected: dict) -> None:
    """A trace against what TypeScript read in the same file."""
    events = expected['events']
    check_steps(trace, [event for event in events if event['kind'] == 'step'])
    commands = [event for event in events if event['kind'] == 'command']
    if commands:
        check_commands(trace, commands)
    ends = [(end['timeUs'], end['numSteps'], int(end['digest'])) for end in events if end['kind'] == 'end']
    found = [] if trace.end is None else [(trace.end.time_us, trace.end.num_steps, trace.end.digest)]
    assert found == ends
    problem = None if trace.problem is None else vars(trace.problem)
    assert problem == expected['problem']
