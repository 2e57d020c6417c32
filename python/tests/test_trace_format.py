"""docs/trace-format.md: the trace that it shows is one, and is what it says."""

import base64
import re
from pathlib import Path

from kadenz import trace as kadenz_trace

PAGE = Path(__file__).resolve().parents[2] / 'docs' / 'trace-format.md'
#: `   776  10 00 00 ...  what they are`, the offset only where it helps.
HEX_LINE = re.compile(r' {4,}(?:(\d{3,4}) +)?((?:[0-9a-f]{2} ?)+)(?: |$)')


def trace_on_the_page() -> bytes:
    lines = re.findall(
        r'^    ([A-Za-z0-9+/=]{60,})$|^    ([A-Za-z0-9+/]+=+)$', PAGE.read_text(), re.MULTILINE
    )
    return base64.b64decode(''.join(long or last for long, last in lines))


def test_the_trace_on_the_page_reads_as_the_page_says(tmp_path):
    path = tmp_path / 'page.kdz'
    path.write_bytes(trace_on_the_page())
    trace = kadenz_trace.read(path)
    assert trace.problem is None
    assert path.stat().st_size == 1408
    assert trace.header.host_fingerprint == 'cpu x86-64 bfloat16 numerics-1'
    assert trace.steps['digest'].tolist()[:2] == [0xC3BA4CBC17A94141, 0x213D89BE3A776DB5]
    assert trace.steps['planned_us'].tolist()[:2] == [347495, 347495 + 10244]
    assert trace.steps['committed_us'].tolist()[:2] == [347495 + 11064, 347495 + 12133]
    assert trace.steps['rounds'].tolist()[:2] == [1, 1]
    assert trace.tokens['token_id'].tolist() == [2, 2]
    assert [f'{logprob:.8f}' for logprob in trace.tokens['logprob']] == ['-0.00055778', '-0.00084914']
    assert trace.commands['kind'].tolist() == ['add_requests', 'shutdown']
    assert vars(trace.end) == {'time_us': 391688, 'num_steps': 3, 'digest': 0x78F3AC83BC22229B}


def test_every_byte_that_the_page_explains_stands_where_it_says():
    data = trace_on_the_page()
    begin, num_bytes = None, 0
    for line in PAGE.read_text().splitlines():
        found = HEX_LINE.match(line)
        if found is None:
            begin = None
            continue
        if found[1] is not None:
            assert begin is None or begin == int(found[1]), line
            begin = int(found[1])
        if begin is None:
            continue
        explained = bytes.fromhex(found[2])
        assert data[begin : begin + len(explained)] == explained, line
        begin, num_bytes = begin + len(explained), num_bytes + len(explained)
    assert num_bytes == 232 + 88
