"""Our TCPStore with stock PyTorch's: its clients and a gloo group at our server, our client at its server."""

import json
import multiprocessing
import subprocess
import threading
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
import torch.distributed as dist


SCRIPT = Path(__file__).parent / 'tcp_store.mjs'
SHORT = timedelta(milliseconds=200)


class Program:
    """The script, line by line."""

    def __init__(self, *arguments: str):
        command = ['node', str(SCRIPT), *arguments]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def read(self) -> dict:
        line = self.process.stdout.readline()
        assert line, 'the program has ended'
        return json.loads(line)

    def call(self, *words) -> dict:
        self.process.stdin.write(json.dumps(words) + '\n')
        self.process.stdin.flush()
        return self.read()

    def close(self) -> None:
        self.process.stdin.close()
        assert self.process.wait(timeout=20) == 0


@contextmanager
def program(*arguments: str):
    running = Program(*arguments)
    try:
        yield running
        running.close()
    finally:
        running.process.kill()
        running.process.wait()


def torch_client(port: int) -> dist.TCPStore:
    return dist.TCPStore('127.0.0.1', port, is_master=False, timeout=timedelta(seconds=20))


class TestTorchClientsAtOurServer:
    @pytest.fixture
    def port(self):
        with program('serve') as server:
            yield server.read()['port']

    def test_values_counters_and_comparisons(self, port):
        one, other = torch_client(port), torch_client(port)
        value = bytes(range(256)) * 1000
        one.set('weights', value)
        assert other.get('weights') == value
        assert [one.add('n', 3), other.add('n', -5)] == [3, -2]
        one.append('log', 'ab')
        one.append('log', 'c')
        assert other.get('log') == b'abc'
        assert other.compare_set('k', '', 'first') == b'first'
        assert other.compare_set('k', 'wrong', 'second') == b'first'
        assert other.compare_set('k', 'first', 'second') == b'second'
        assert one.check(['k', 'n']) and not one.check(['k', 'none'])
        one.multi_set(['m1', 'm2'], ['1', '2'])
        assert other.multi_get(['m1', 'm2']) == [b'1', b'2']
        assert one.num_keys() == len(one.list_keys())
        assert one.delete_key('k') and not one.delete_key('k')
        assert not other.check(['k'])

    def test_queues(self, port):
        one, other = torch_client(port), torch_client(port)
        one.queue_push('q', 'a')
        one.queue_push('q', 'b')
        assert other.queue_len('q') == 2
        assert [other.queue_pop('q'), other.queue_pop('q')] == [b'a', b'b']
        assert other.queue_len('q') == 0
        late = threading.Timer(0.2, lambda: one.queue_push('q', 'late'))
        late.start()
        assert other.queue_pop('q') == b'late'
        late.join()

    def test_a_wait_that_is_over_and_one_that_is_not(self, port):
        one, other = torch_client(port), torch_client(port)
        late = threading.Timer(0.2, lambda: one.set('late', 'x'))
        late.start()
        other.wait(['late'])
        with pytest.raises(dist.DistStoreError):
            other.wait(['never'], SHORT)
        assert other.get('late') == b'x'
        late.join()

    def test_clones_and_prefixes(self, port):
        one = torch_client(port)
        dist.PrefixStore('a', one.clone()).set('k', 'v')
        assert one.get('a/k') == b'v'

    def test_a_barrier(self, port):
        one, other = torch_client(port), torch_client(port)
        if not hasattr(one, 'barrier'):
            pytest.skip('this torch has no store barrier')
        arrived = []
        thread = threading.Thread(target=lambda: (other.barrier('b', 2, timedelta(seconds=20)), arrived.append(1)))
        thread.start()
        thread.join(0.3)
        assert not arrived
        one.barrier('b', 2, timedelta(seconds=20))
        thread.join(20)
        assert arrived

    def test_a_gloo_group_of_three_processes_meets_and_sums(self, port):
        context = multiprocessing.get_context('spawn')
        results = context.Queue()
        ranks = [context.Process(target=sum_ranks, args=(rank, 3, port, results)) for rank in range(3)]
        for rank in ranks:
            rank.start()
        sums = [results.get(timeout=60) for _ in ranks]
        for rank in ranks:
            rank.join(20)
            assert rank.exitcode == 0
        assert sums == [6.0, 6.0, 6.0]


def sum_ranks(rank: int, world: int, port: int, results) -> None:
    import torch

    dist.init_process_group('gloo', store=torch_client(port), rank=rank, world_size=world)
    value = torch.tensor(float(rank + 1))
    dist.all_reduce(value)
    dist.barrier()
    results.put(value.item())
    dist.destroy_process_group()


class TestOurClientAtTorchsServer:
    @pytest.fixture
    def store(self):
        return dist.TCPStore('127.0.0.1', 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=20))

    def test_values_counters_and_comparisons(self, store):
        with program('client', '127.0.0.1', str(store.port)) as client:
            assert client.read() == {'value': 'connected'}
            store.set('from torch', b'\x00\xff!')
            assert client.call('get', 'from torch') == {'value': '\x00\xff!'}
            client.call('set', 'from us', 'bytes \xfe')
            assert client.call('check', ['from us', 'from torch']) == {'value': True}
            assert store.get('from us') == b'bytes \xfe'
            assert client.call('add', 'n', 4) == {'value': 4}
            assert store.add('n', 1) == 5
            client.call('append', 'log', 'ab')
            assert client.call('compareSet', 'k', '', 'first') == {'value': 'first'}
            assert client.call('compareSet', 'k', 'wrong', 'second') == {'value': 'first'}
            assert client.call('compareSet', 'missing', 'wrong', 'second') == {'value': 'wrong'}
            assert client.call('deleteKey', 'k') == {'value': True}
            assert client.call('check', ['k']) == {'value': False}
            assert set(client.call('listKeys')['value']) >= {'/from torch', '/from us', '/n', '/log'}
            assert store.get('log') == b'ab'

    def test_waits(self, store):
        with program('client', '127.0.0.1', str(store.port)) as client:
            client.read()
            late = threading.Timer(0.2, lambda: store.set('late', 'x'))
            late.start()
            assert client.call('get', 'late') == {'value': 'x'}
            late.join()
            assert client.call('get', 'never', 100) == {'error': 'store_timeout'}
            assert client.call('wait', ['late']) == {'value': None}
            assert client.call('wait', ['late', 'never'], 100) == {'error': 'store_timeout'}
            assert client.call('get', 'late') == {'value': 'x'}

    def test_it_counts_as_one_of_the_world_that_the_server_waits_for(self):
        port = free_port()
        with program('client', '127.0.0.1', str(port), 'group/g') as client:
            store = dist.TCPStore('127.0.0.1', port, world_size=2, is_master=True, timeout=timedelta(seconds=20))
            assert client.read() == {'value': 'connected'}
            client.call('set', 'id', 'unique')
            assert client.call('get', 'id') == {'value': 'unique'}
            assert dist.PrefixStore('g', dist.PrefixStore('group', store)).get('id') == b'unique'


def free_port() -> int:
    import socket

    with socket.socket() as listener:
        listener.bind(('127.0.0.1', 0))
        return listener.getsockname()[1]
