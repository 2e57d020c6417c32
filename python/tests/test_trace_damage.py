"""kadenz.trace takes nothing from a file that was cut, damaged or made to harm, and says what is wrong with it."""

import random
import re
import struct
import tracemalloc
from pathlib import Path

import pytest
import zstandard
from trace_files import (
    COMMAND,
    EMPTY_RESULT,
    END,
    HEAD_BYTES,
    HEADER,
    PREAMBLE_BYTES,
    STEPS,
    check,
    field_at,
    parts_of,
    read_in_typescript,
    record,
    sealed,
    steps_payload,
)

from kadenz import trace as kadenz_trace
from kadenz.trace import TraceError

CUTS, MUTATIONS = 300, 800
SEED = 20


@pytest.fixture(scope='module')
def plain(tmp_path_factory) -> bytes:
    return record(tmp_path_factory.mktemp('traces') / 'plain.kdz').read_bytes()


def read_bytes(folder: Path, data: bytes, **options):
    path = folder / 'trace.kdz'
    path.write_bytes(data)
    return kadenz_trace.read(path, **options)


def test_a_trace_cut_anywhere_gives_its_whole_frames_and_says_where_it_was_cut(plain, tmp_path):
    boundaries = [part.offset for part in parts_of(plain)] + [len(plain)]
    draw = random.Random(SEED)
    sizes = {at + by for at in boundaries for by in (-1, 0, 1, HEAD_BYTES) if at + by <= len(plain)}
    sizes |= {draw.randrange(len(plain)) for _ in range(CUTS)}
    paths = [tmp_path / f'{size}.kdz' for size in sorted(sizes)]
    for path in paths:
        path.write_bytes(plain[: int(path.stem)])
    num_whole = 0
    for path, expected in zip(paths, read_in_typescript(paths), strict=True):
        if int(path.stem) < boundaries[1]:
            with pytest.raises(TraceError) as error:
                kadenz_trace.read(path)
            assert error.value.code == expected['code']
            continue
        trace = kadenz_trace.read(path)
        check(trace, expected)
        num_whole += trace.problem is None
        assert trace.problem is None or trace.problem.kind == 'cut'
    assert num_whole == 1


@pytest.mark.parametrize('kind', [HEADER, STEPS, COMMAND, END])
@pytest.mark.parametrize('where', ['head', 'checksum', 'payload'])
def test_a_flipped_bit_in_any_kind_of_frame_is_found_and_named(plain, tmp_path, kind, where):
    number, part = next((at, part) for at, part in enumerate(parts_of(plain)) if part.kind == kind)
    damaged = bytearray(plain)
    damaged[part.offset + {'head': 4, 'checksum': 20, 'payload': HEAD_BYTES + 9}[where]] ^= 4
    path = tmp_path / 'damaged.kdz'
    path.write_bytes(damaged)
    [expected] = read_in_typescript([path])
    if kind == HEADER:
        with pytest.raises(
            TraceError, match='frame 0 at byte 16 is damaged: its checksum does not fit'
        ) as error:
            kadenz_trace.read(path)
        assert (error.value.code, str(error.value)) == (expected['code'], expected['message'])
        return
    trace = kadenz_trace.read(path)
    check(trace, expected)
    assert (trace.problem.kind, trace.problem.frame, trace.problem.offset) == ('corrupt', number, part.offset)


def test_what_is_no_trace_is_refused_with_a_sentence(plain, tmp_path):
    other_version = plain[:8] + struct.pack('<I', 2) + plain[12:]
    cases = {
        'does not begin like one': [b'', b'KADENZ', b'KADENZTX' + plain[8:], bytes(100)],
        'version 2; this Kadenz reads version 1': [other_version],
        'ends before its first frame': [plain[:PREAMBLE_BYTES]],
        'first frame is no header': [plain[:PREAMBLE_BYTES] + parts_of(plain)[1].stored],
    }
    for sentence, files in cases.items():
        for data in files:
            with pytest.raises(TraceError, match=sentence):
                read_bytes(tmp_path, data)
    for path in (tmp_path / 'nowhere.kdz', tmp_path):
        with pytest.raises(TraceError, match="can't be read") as error:
            kadenz_trace.read(path)
        assert error.value.code == 'trace_not_found'


def splice(plain: bytes, number: int, frame: bytes) -> bytes:
    """The trace with another frame in place of this one."""
    part = parts_of(plain)[number]
    return plain[: part.offset] + frame + plain[part.offset + len(part.stored) :]


def first_of(plain: bytes, kind: int) -> int:
    return next(at for at, part in enumerate(parts_of(plain)) if part.kind == kind)


def test_frames_that_are_missing_doubled_or_out_of_order_are_found(plain, tmp_path):
    parts = parts_of(plain)
    steps = [at for at, part in enumerate(parts) if part.kind == STEPS]
    cases = {
        rf'frame {steps[0]} .*stands after step 0 and says': splice(plain, steps[0], b''),
        rf'frame {steps[-1]} .*and says that it stands after step 22': splice(plain, steps[-1], b''),
        rf'frame {steps[0] + 1} .*begins with step 1 where step': splice(
            plain, steps[0], 2 * parts[steps[0]].stored
        ),
        rf'frame {steps[0]} .*begins with step \d+ where step 1 follows': splice(
            plain, steps[0], parts[steps[1]].stored
        ),
        r'frame 2 at byte \d+ is a second header': splice(plain, 2, parts[0].stored),
    }
    for sentence, data in cases.items():
        problem = read_bytes(tmp_path, data).problem
        assert problem.kind == 'corrupt'
        assert re.search(sentence, problem.sentence)


def test_bytes_behind_the_end_frame_are_not_read(plain, tmp_path):
    assert read_bytes(tmp_path, plain + b'more').problem is None


def words_at(payload: bytes) -> list[int]:
    return list(range(0, len(payload) - 3, 4))


HOSTILE_WORDS = [0, 1, 4, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFF8, 0x10000000]


def test_no_payload_with_a_right_checksum_does_harm(plain, tmp_path):
    """Every word of the small payloads, and words drawn from all, become what an attacker would write."""
    parts, draw = parts_of(plain), random.Random(SEED)
    mutations = [
        (number, at, value)
        for number in (first_of(plain, kind) for kind in (HEADER, STEPS, END))
        for at in words_at(parts[number].payload)[:40]
        for value in HOSTILE_WORDS[:3]
    ]
    for _ in range(MUTATIONS):
        number = draw.randrange(len(parts))
        mutations.append((number, draw.choice(words_at(parts[number].payload)), draw.choice(HOSTILE_WORDS)))
    num_found = 0
    for number, at, value in mutations:
        payload = bytearray(parts[number].payload)
        payload[at : at + 4] = struct.pack('<I', value)
        try:
            trace = read_bytes(tmp_path, splice(plain, number, sealed(bytes(payload))))
        except TraceError:
            assert number == 0
            num_found += 1
            continue
        if trace.problem is not None:
            assert trace.problem.kind == 'corrupt'
            assert trace.problem.frame == number or trace.problem.frame == number + 1
            num_found += 1
        assert len({len(column) for column in trace.tokens.values()}) == 1
    assert num_found > len(mutations) / 4


GOOD_STEPS = {
    'samples': [1, 0, 1],
    'token_ids': [7, 8],
    'logprobs': [-0.5, -0.25],
    'wholes': [1],
    'whole_ends': [len(EMPTY_RESULT)],
    'results': EMPTY_RESULT,
}
BROKEN_RULES = [
    ('steps are missing', {'samples': []}),
    ('token ids and log-probs differ in number', {'logprobs': [-0.5]}),
    ('steps and token ids differ in number', {'samples': [1, 0, 2]}),
    ('running ends do not ascend', {'wholes': [3]}),
    ('running ends do not ascend', {'wholes': [1, 1], 'whole_ends': [12, 12]}),
    ('running ends differ in number', {'whole_ends': []}),
    ('running ends do not ascend', {'whole_ends': [len(EMPTY_RESULT) + 1]}),
    ('running ends do not ascend', {'wholes': [0, 1], 'whole_ends': [8, 4]}),
    ('steps and plans differ in number', {'plan_ends': [0]}),
    ('running ends do not ascend', {'plan_ends': [0, 0, 1]}),
    ('a step with a whole Result has samples beside it', {'wholes': [0]}),
]
#: Those that TypeScript tells in other words, or leaves to a replay.
MORE_BROKEN_RULES = [
    ('it begins with step 2 where step 1 follows', {'first_step': 2}),
    ('its time is impossible', {'base_us': 2**53}),
    ('a message is shorter than its root', {'whole_ends': [0]}),
]


def test_each_rule_of_steps_holds_by_itself(plain, tmp_path):
    start = plain[: parts_of(plain)[1].offset]
    trace = read_bytes(tmp_path, start + sealed(steps_payload(**GOOD_STEPS)))
    assert trace.problem.kind == 'cut'
    assert trace.tokens['step'].tolist() == [1, 3]
    paths = [tmp_path / f'{index}.kdz' for index in range(len(BROKEN_RULES))]
    for path, (_, change) in zip(paths, BROKEN_RULES, strict=True):
        path.write_bytes(start + sealed(steps_payload(**GOOD_STEPS | change)))
    for path, (sentence, _), expected in zip(paths, BROKEN_RULES, read_in_typescript(paths), strict=True):
        problem = kadenz_trace.read(path).problem
        assert problem.sentence.endswith(f'is damaged: {sentence}.')
        assert vars(problem) == expected['problem']
    for sentence, change in MORE_BROKEN_RULES:
        problem = read_bytes(tmp_path, start + sealed(steps_payload(**GOOD_STEPS | change))).problem
        assert problem.sentence.endswith(f'is damaged: {sentence}.')


def result_payload(*columns: tuple[int, bytes]) -> bytes:
    """A Result of columns, by field number: an entry's bytes each, of which there are as many as the number says."""
    fields = {number: content for number, content in columns}
    vtable = struct.pack('<HH15H', 34, 4 + 4 * len(fields), *[0] * 15)
    slots = bytearray(vtable)
    body, tail = struct.pack('<i', 36), b''
    for at, (number, content) in enumerate(fields.items()):
        struct.pack_into('<H', slots, 4 + 2 * number, 4 + 4 * at)
        body += struct.pack('<I', 4 * (len(fields) - at) + len(tail))
        tail += struct.pack('<I', len(content) // 4) + content
    return struct.pack('<I', 40) + bytes(slots) + bytes(2) + body + tail


@pytest.mark.parametrize(
    ('sentence', 'columns'),
    [
        (None, {3: [5, 6], 5: [0, 0], 6: [1, 2], 7: [1, 2], 8: [9, 9], 9: [0, 0]}),
        ('a Result has 1 entries in one column and 2 in another', {3: [5, 6], 5: [0]}),
        ('a Result has 3 entries in one column and 2 in another', {3: [5, 6], 6: [1, 2, 3]}),
        ('running ends of a Result do not ascend', {3: [5, 6], 7: [2, 1], 8: [9], 9: [0]}),
        ('running ends of a Result do not ascend', {3: [5, 6], 7: [1, 3], 8: [9], 9: [0]}),
        ('running ends of a Result do not ascend', {8: [9], 9: [0]}),
        ('a Result names most likely tokens without their log-probs', {3: [5], 7: [1], 8: [9]}),
    ],
)
def test_a_result_that_contradicts_itself_is_damage(plain, tmp_path, sentence, columns):
    packed = [(number, struct.pack(f'<{len(words)}I', *words)) for number, words in columns.items()]
    result = result_payload(*packed)
    steps = GOOD_STEPS | {'results': result, 'whole_ends': [len(result)]}
    trace = read_bytes(tmp_path, plain[: parts_of(plain)[1].offset] + sealed(steps_payload(**steps)))
    if sentence is None:
        assert trace.problem.kind == 'cut'
        assert trace.tokens['token_id'].tolist() == [7, 5, 6, 8]
        assert trace.tokens['rank'].tolist() == [0, 1, 2, 0]
    else:
        assert trace.problem.sentence.endswith(f'is damaged: {sentence}.')


def test_what_typescript_takes_for_damage_is_damage_here_too(plain, tmp_path):
    parts, draw = parts_of(plain), random.Random(SEED + 1)
    paths, numbers = [], []
    for index in range(200):
        number = draw.randrange(1, len(parts))
        payload = bytearray(parts[number].payload)
        at = draw.randrange(min(len(payload), 160))
        payload[at] ^= 1 << draw.randrange(8)
        paths.append(tmp_path / f'{index}.kdz')
        paths[-1].write_bytes(splice(plain, number, sealed(bytes(payload))))
        numbers.append(number)
    num_damaged = 0
    for path, number, expected in zip(paths, numbers, read_in_typescript(paths), strict=True):
        trace = kadenz_trace.read(path)
        if expected.get('problem') is not None:
            assert (trace.problem.kind, trace.problem.frame) == ('corrupt', number), expected['problem']
            num_damaged += 1
    assert num_damaged > 30


def test_a_length_that_lies_allocates_nothing(plain, tmp_path):
    at = parts_of(plain)[1].offset
    lies = [
        plain[:at] + struct.pack('<IIIIQ', 2**28, 2**28, 0, 0, 0) + bytes(64),
        plain[:at] + struct.pack('<IIIIQ', 2**32 - 1, 8, 0, 0, 0) + bytes(64),
        plain[:at] + sealed(zstandard.compress(bytes(64)), raw_bytes=2**28, codec=1),
        plain[:at] + sealed(zstandard.compress(bytes(2**24)), raw_bytes=64, codec=1),
        splice(plain, 1, sealed(bytes(64), raw_bytes=2**28)),
    ]
    sentences = ['ends within frame 1', 'its length is impossible', *["can't be unpacked"] * 3]
    for data, sentence in zip(lies, sentences, strict=True):
        tracemalloc.start()
        problem = read_bytes(tmp_path, data).problem
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert sentence in problem.sentence
        assert peak_bytes < 2**20


def test_what_unpacks_to_more_than_the_limit_is_refused(plain, tmp_path):
    packed = sealed(zstandard.compress(bytes(2**22)), raw_bytes=2**22, codec=1)
    with pytest.raises(TraceError, match='more than 1000000 bytes') as error:
        read_bytes(tmp_path, splice(plain, 1, packed), max_unpacked_bytes=1_000_000)
    assert error.value.code == 'trace_unsupported'


@pytest.mark.parametrize('data', [b'not zstd at all!', zstandard.compress(b'x' * 64)[:-3]])
def test_a_compressed_frame_that_is_none_is_damage(plain, tmp_path, data):
    problem = read_bytes(tmp_path, splice(plain, 1, sealed(data, raw_bytes=64, codec=1))).problem
    assert problem.sentence.endswith("its content (codec 1) can't be unpacked.")


def test_an_unknown_codec_or_kind_of_frame_is_named(plain, tmp_path):
    payload = bytearray(parts_of(plain)[1].payload)
    problem = read_bytes(tmp_path, splice(plain, 1, sealed(bytes(payload), codec=9))).problem
    assert "(codec 9) can't be unpacked" in problem.sentence
    payload[field_at(payload, 0)] = 9
    problem = read_bytes(tmp_path, splice(plain, 1, sealed(bytes(payload)))).problem
    assert 'a frame is of kind 9, which this version does not know' in problem.sentence


def test_one_request_named_a_million_times_is_not_taken(plain, tmp_path):
    """Offsets may point to one table from many places: that would make much memory out of few bytes."""
    frame = sealed(command_frame(add_one_request_often(2**20)))
    tracemalloc.start()
    trace = read_bytes(tmp_path, plain[: parts_of(plain)[1].offset] + frame)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert trace.commands['kind'].tolist() == ['malformed']
    assert 'more tables than there can be' in trace.commands['details'][0]['why']
    assert peak_bytes < 6 * len(frame)


def add_one_request_often(count: int) -> bytes:
    command = struct.pack('<I5H2xiIB3x', 16, 10, 12, 0, 8, 4, 12, 16, 2)
    add_requests = struct.pack('<3H2xiII', 6, 8, 4, 8, 4, count)
    offsets = struct.pack(f'<{count}I', *range(4 * count + 4, 4, -4))
    return command + add_requests + offsets + struct.pack('<HHi', 4, 4, 4)


def command_frame(command: bytes) -> bytes:
    frame = struct.pack('<I4H4xiIB3x', 16, 8, 12, 8, 4, 12, 20, COMMAND)
    return frame + struct.pack('<6HiI4xI', 12, 8, 0, 0, 0, 4, 12, 8, len(command)) + command


def test_a_string_without_its_zero_or_a_message_that_lies_crooked_is_damage(plain, tmp_path):
    unended = parts_of(plain)[0].payload.replace(b'0.1.0\0', b'0.1.0!')
    with pytest.raises(TraceError, match='a string has no end'):
        read_bytes(tmp_path, splice(plain, 0, sealed(unended)))
    crooked = b'crooked!'.join(command_frame(b'').split(struct.pack('<iI4xI', 12, 8, 0)))
    crooked = crooked.replace(b'crooked!', struct.pack('<iII', 12, 4, 8)) + bytes(8)
    problem = read_bytes(tmp_path, splice(plain, 1, sealed(crooked))).problem
    assert 'something lies outside of its message' in problem.sentence


def test_a_header_that_does_not_say_how_its_core_was_made_is_damage(plain, tmp_path):
    payload = bytearray(parts_of(plain)[0].payload)
    configure = field_at(payload, 1, 3)
    configure += struct.unpack_from('<I', payload, configure)[0] + 4
    no_configure = bytearray(payload)
    no_configure[field_at(payload, 1, at=configure)] = 5  # ResumeGeneration
    short_hash = bytearray(payload)
    sha256 = field_at(payload, 1, 2)
    struct.pack_into('<I', short_hash, sha256 + struct.unpack_from('<I', payload, sha256)[0], 31)
    other_version = bytearray(payload)
    struct.pack_into('<I', other_version, field_at(payload, 1, 0), 3)
    cases = {
        'the configuration is missing': no_configure,
        'the hash of the core has not 32 bytes': short_hash,
        'a trace of version 3; this Kadenz reads version 1': other_version,
    }
    for sentence, damaged in cases.items():
        with pytest.raises(TraceError, match=sentence):
            read_bytes(tmp_path, splice(plain, 0, sealed(bytes(damaged))))


def test_a_command_at_an_impossible_time_is_damage(plain, tmp_path):
    number = first_of(plain, COMMAND)
    payload = bytearray(parts_of(plain)[number].payload)
    struct.pack_into('<Q', payload, field_at(payload, 1, 1), 2**53)
    problem = read_bytes(tmp_path, splice(plain, number, sealed(bytes(payload)))).problem
    assert problem.sentence.endswith('is damaged: its time is impossible.')
