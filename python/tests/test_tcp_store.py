"""Our TCPStore with stock PyTorch's: its clients and a gloo group at our server, our client at its server."""

import ctypes
import json
import multiprocessing
import pickle
import subprocess
import sys
import threading
import types
import uuid
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


def arrived(store: dist.TCPStore) -> None:
    """What is not answered has come to the server once something that is has come back; another client may be quicker before."""
    store.num_keys()


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
        arrived(one)
        assert other.get('log') == b'abc'
        assert other.compare_set('k', '', 'first') == b'first'
        assert other.compare_set('k', 'wrong', 'second') == b'first'
        assert other.compare_set('k', 'first', 'second') == b'second'
        assert one.check(['k', 'n']) and not one.check(['k', 'none'])
        one.multi_set(['m1', 'm2'], ['1', '2'])
        arrived(one)
        assert other.multi_get(['m1', 'm2']) == [b'1', b'2']
        assert one.num_keys() == len(one.list_keys())
        assert one.delete_key('k') and not one.delete_key('k')
        assert not other.check(['k'])

    def test_queues(self, port):
        one, other = torch_client(port), torch_client(port)
        one.queue_push('q', 'a')
        one.queue_push('q', 'b')
        arrived(one)
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
        left = []
        thread = threading.Thread(target=lambda: (other.barrier('b', 2, timedelta(seconds=20)), left.append(1)))
        thread.start()
        thread.join(0.3)
        assert not left
        one.barrier('b', 2, timedelta(seconds=20))
        thread.join(20)
        assert left

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


ID = bytes((37 * i + 11) % 256 for i in range(128))


class TestTheNcclIdOfATorchGroup:
    """The trainer's rank 0 is acted by stock torch's store with the keys that its process groups write."""

    @pytest.fixture
    def store(self):
        return dist.TCPStore('127.0.0.1', 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=20))

    @pytest.mark.parametrize(
        'key', ['{0}/{0}//cuda//0', '{0}/{0}//cuda//{0}/nccl_storekey_0', '{0}/{0}//nccl2/nccl_storekey_0']
    )
    def test_is_found_however_torch_names_it_and_whenever_it_comes(self, store, key):
        with program('client', '127.0.0.1', str(store.port)) as client:
            client.read()
            late = threading.Timer(0.3, lambda: store.set(key.format('weights'), ID))
            late.start()
            assert client.call('readNcclId', 'weights', 10_000) == {'value': ID.decode('latin1')}
            late.join()

    def test_that_never_comes_or_is_none_ends_in_a_code(self, store):
        with program('client', '127.0.0.1', str(store.port)) as client:
            client.read()
            store.set('other/other//cuda//0', ID)
            assert client.call('readNcclId', 'weights', 200) == {'error': 'store_timeout'}
            store.set('weights/weights//cuda//0', ID[:100])
            assert client.call('readNcclId', 'weights', 200) == {'error': 'store_protocol'}

    def test_of_ours_is_where_torch_looks_for_it(self, store):
        with program('client', '127.0.0.1', str(store.port)) as client:
            client.read()
            assert client.call('writeNcclId', 'weights', ID.decode('latin1')) == {'value': None}
            prefixed = dist.PrefixStore('weights/', dist.PrefixStore('weights', store))
            assert store.get('weights/weights//cuda//0') == ID
            assert prefixed.get('cuda//0') == ID


def pynccl_id(value: bytes):
    """An object as vLLM broadcasts it: a ctypes structure of a class with that name, in a module with that name."""
    names = 'vllm.distributed.device_communicators.pynccl_wrapper'.split('.')
    for depth in range(1, len(names) + 1):
        sys.modules.setdefault('.'.join(names[:depth]), types.ModuleType(names[depth - 1]))
    module = sys.modules['.'.join(names)]
    if not hasattr(module, 'ncclUniqueId'):
        fields = {'_fields_': [('internal', ctypes.c_byte * 128)], '__module__': '.'.join(names)}
        module.ncclUniqueId = type('ncclUniqueId', (ctypes.Structure,), fields)
    return module.ncclUniqueId.from_buffer_copy(value)


class ActedGroup:
    """StatelessProcessGroup's messages, from what is publicly known of them."""

    def __init__(self, store, rank: int, world: int):
        self.store, self.rank, self.world, self.sent = store, rank, world, {}

    def broadcast(self, value, source: int):
        number = self.sent.get(source, 0)
        self.sent[source] = number + 1
        key = f'broadcast_from/{source}/{number}'
        if source == self.rank:
            self.store.set(key, pickle.dumps(value))
            return value
        return pickle.loads(self.store.get(key))

    def barrier(self) -> None:
        name = self.broadcast(f'barrier_{uuid.uuid4()}' if self.rank == 0 else None, 0)
        for stage in ('arrival', 'departure'):
            self.store.set(f'{stage}_{name}_{self.rank}', b'1')
            if stage == 'arrival' or self.rank == 0:
                self.store.wait([f'{stage}_{name}_{rank}' for rank in range(self.world)])
        if self.rank == 0:
            for rank in range(self.world):
                self.store.delete_key(f'arrival_{name}_{rank}')
                self.store.delete_key(f'departure_{name}_{rank}')


class TestAStatelessGroup:
    def test_with_a_trainer_as_rank_0(self):
        store = dist.TCPStore('127.0.0.1', 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=20))
        group = ActedGroup(store, 0, 2)
        with program('client', '127.0.0.1', str(store.port)) as client:
            client.read()
            client.call('joinGroup', 1, 2, 10_000)
            group.broadcast(pynccl_id(ID), 0)
            assert client.call('receiveId', 0) == {'value': ID.decode('latin1')}
            for _ in range(3):
                meeting = threading.Thread(target=group.barrier)
                meeting.start()
                assert client.call('barrier') == {'value': None}
                meeting.join(20)
                assert not meeting.is_alive()
            assert not [key for key in store.list_keys() if 'arrival' in key or 'departure' in key]
            group.broadcast({'not': 'an id'}, 0)
            assert client.call('receiveId', 0) == {'error': 'store_protocol'}

    def test_with_the_engine_as_rank_0_at_its_own_server(self):
        with program('serve') as server, program('client', '127.0.0.1', str(server.read()['port'])) as client:
            port = int(client.process.args[-1])
            client.read()
            client.call('joinGroup', 0, 2, 10_000)
            group = ActedGroup(torch_client(port), 1, 2)
            pynccl_id(ID)  # the class that is unpickled
            client.call('sendId', ID.decode('latin1'))
            assert bytes(group.broadcast(None, 0)) == ID
            meeting = threading.Thread(target=group.barrier)
            meeting.start()
            assert client.call('barrier') == {'value': None}
            meeting.join(20)
            assert not meeting.is_alive()

    def test_of_which_a_rank_never_comes_ends_in_a_code(self):
        store = dist.TCPStore('127.0.0.1', 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=20))
        with program('client', '127.0.0.1', str(store.port)) as client:
            client.read()
            client.call('joinGroup', 0, 2, 200)
            assert client.call('barrier') == {'error': 'store_timeout'}


def free_port() -> int:
    import socket

    with socket.socket() as listener:
        listener.bind(('127.0.0.1', 0))
        return listener.getsockname()[1]
