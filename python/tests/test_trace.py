"""kadenz.trace gives what the TypeScript reader gives, in columns that pandas takes."""

import base64
import sys
from pathlib import Path

import pandas
import pytest
from trace_files import PREAMBLE_BYTES, check, parts_of, read_in_typescript, record, snake

from kadenz import trace as kadenz_trace
from kadenz.trace import TraceError

VARIANTS = {
    'plain': {},
    'plans': {'plans': True},
    'compressed': {'compression': 'zstd'},
    'compressed_plans': {'compression': 'zstd', 'plans': True},
    'killed': {'ends': False},
    'decode': {'scenario': 'decode', 'seqs': 64, 'tokens': 300},
}


@pytest.fixture(scope='module')
def recorded(tmp_path_factory) -> dict[str, tuple[Path, dict]]:
    """Each variant's path, and what TypeScript reads in it."""
    folder = tmp_path_factory.mktemp('traces')
    paths = [record(folder / f'{name}.kdz', **options) for name, options in VARIANTS.items()]
    return dict(zip(VARIANTS, zip(paths, read_in_typescript(paths), strict=True), strict=True))


@pytest.mark.parametrize('variant', VARIANTS)
def test_every_column_is_what_the_typescript_reader_gives(recorded, variant):
    path, expected = recorded[variant]
    trace = kadenz_trace.read(path)
    check(trace, expected)
    header = {snake(name): value for name, value in expected['header'].items()}
    configure = {snake(name): value for name, value in header['configure'].items()}
    eos_token_ids = trace.header.configure['eos_token_ids'].tolist()
    assert {**trace.header.configure, 'eos_token_ids': eos_token_ids} == configure
    assert {**vars(trace.header), 'configure': None} == {**header, 'configure': None}


@pytest.mark.parametrize('variant', ['plans', 'compressed_plans'])
def test_plans_are_the_bytes_of_each_steps_instruction(recorded, variant):
    path, expected = recorded[variant]
    plans = [base64.b64decode(event['plan']) for event in expected['events'] if event['kind'] == 'step']
    assert kadenz_trace.read(path).plans == plans
    assert all(plans)


def test_what_happened_to_a_run_stands_in_its_columns(recorded):
    trace = kadenz_trace.read(recorded['plain'][0])
    steps, tokens = pandas.DataFrame(trace.steps), pandas.DataFrame(trace.tokens)
    failed = steps[steps.code != 0]
    assert failed[['step', 'code', 'message', 'num_samples']].values.tolist() == [
        [12, 70, 'the device häs failed', 0]
    ]
    assert tokens[tokens.code == 71][['step', 'row', 'token_id']].values.tolist() == [[15, 0, -1]]
    assert tokens[tokens.step == 8].logprob.isna().all()
    assert tokens[tokens.step == 5].logprob.tolist() == [-5 - row / 16 for row in range(6)]
    assert len(trace.tops['step']) > 0 and len(trace.score_tops['step']) == 2 * len(trace.scores['step']) > 0
    details = dict(zip(trace.commands['kind'], trace.commands['details'], strict=True))
    assert details['abort_requests']['request_ids'].tolist() == [2, 99]
    assert details['pause_generation'] == {'mode': 'keep'}
    assert details['finish_weight_update'] == {'version': 7, 'succeeded': True}
    assert details['release_memory'] == {'tags': ['weights'], 'abort_running': False}
    assert details['load_adapter'] == {'adapter': 1, 'name': 'tiny', 'path': '/adapters/tiny'}
    assert details['reset_prefix_cache'] == {'force': True}
    assert details['set_parallel_groups']['tensor_parallel_size'] == 2
    assert trace.commands['kind'].tolist().count('malformed') == 1
    assert trace.header.model == 'models/ünïcode'


def test_all_tables_become_data_frames(recorded):
    trace = kadenz_trace.read(recorded['plain'][0])
    frames = trace.to_pandas()
    assert list(frames) == ['steps', 'tokens', 'tops', 'scores', 'score_tops', 'commands', 'requests']
    for name, frame in frames.items():
        assert list(frame.columns) == list(getattr(trace, name))
        assert len(frame) > 0
    by_step = frames['tokens'].groupby('step').size()
    assert by_step.sum() == frames['steps'].num_samples.sum()


def test_a_run_without_requests_has_empty_tables_of_the_same_columns(recorded, tmp_path):
    data = recorded['plain'][0].read_bytes()
    path = tmp_path / 'header_only.kdz'
    path.write_bytes(data[:PREAMBLE_BYTES] + parts_of(data)[0].stored)
    trace, whole = kadenz_trace.read(path), kadenz_trace.read(recorded['plain'][0])
    for name, frame in trace.to_pandas().items():
        assert len(frame) == 0
        assert list(frame.columns) == list(getattr(whole, name))
    assert trace.problem.kind == 'cut'


def test_a_compressed_trace_without_zstandard_says_what_to_install(recorded, monkeypatch):
    monkeypatch.setitem(sys.modules, 'zstandard', None)
    assert kadenz_trace.read(recorded['plain'][0]).problem is None
    with pytest.raises(TraceError, match='pip install zstandard'):
        kadenz_trace.read(recorded['compressed'][0])
