// Our client and our server with one another, and with peers that are none. With stock PyTorch: python/tests/test_tcp_store.py.

import { once } from 'node:events';
import { connect, createServer, type Socket } from 'node:net';
import { xoroshiro128plus } from 'pure-rand/generator/xoroshiro128plus';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { TcpStoreClient, TcpStoreServer } from '../../src/tcp_store/index.js';
import { MAGIC, MessageWriter, Opcode } from '../../src/tcp_store/wire.js';

let server: TcpStoreServer;
let clients: TcpStoreClient[];
const text = (value: string) => Buffer.from(value);

async function newClient(prefix = ''): Promise<TcpStoreClient> {
  const client = await TcpStoreClient.connect({
    host: server.host,
    port: server.port,
    timeoutMs: 5000,
    prefix,
  });
  clients.push(client);
  return client;
}

async function rawSocket(): Promise<Socket> {
  const socket = connect(server.port, server.host);
  await once(socket, 'connect');
  return socket;
}

beforeEach(async () => {
  clients = [];
  server = await TcpStoreServer.listen();
});
afterEach(async () => {
  for (const client of clients) client.close();
  await server.close();
});

describe('a store', () => {
  it('gives a value to whoever asks, with all of its bytes', async () => {
    const [writer, reader] = [await newClient(), await newClient()];
    const value = Buffer.from(Array.from({ length: 300_000 }, (_, i) => (i * 31) & 255));
    await writer.set('weights/ü', value);
    expect((await reader.get('weights/ü')).equals(value)).toBe(true);
    expect(await reader.listKeys()).toEqual(['init/', '/weights/ü']);
  });

  it('lets a client wait for a key that another one sets later', async () => {
    const [writer, reader] = [await newClient(), await newClient()];
    const value = reader.get('late');
    const all = (await newClient()).wait(['late', 'later']);
    await writer.set('late', text('now'));
    expect((await value).toString()).toBe('now');
    await writer.set('later', text(''));
    await all;
  });

  it('counts, appends, compares and deletes', async () => {
    const client = await newClient();
    expect([await client.add('n', 5), await client.add('n', -7)]).toEqual([5, -2]);
    expect((await client.get('n')).toString()).toBe('-2');
    await client.append('log', text('ab'));
    await client.append('log', text('c'));
    expect((await client.get('log')).toString()).toBe('abc');
    expect((await client.compareSet('x', text('old'), text('new'))).toString()).toBe('old');
    expect(await client.check(['x'])).toBe(false);
    expect((await client.compareSet('x', text(''), text('first'))).toString()).toBe('first');
    expect((await client.compareSet('x', text('other'), text('new'))).toString()).toBe('first');
    expect((await client.compareSet('x', text('first'), text('new'))).toString()).toBe('new');
    expect([
      await client.deleteKey('x'),
      await client.deleteKey('x'),
      await client.check(['n', 'x']),
    ]).toEqual([true, false, false]);
  });

  it('keeps the keys of a prefix apart', async () => {
    const [one, other] = [await newClient('a/b'), await newClient()];
    await one.set('k', text('v'));
    expect((await other.get('a/b/k')).toString()).toBe('v');
    expect(await other.check(['k'])).toBe(false);
  });
});

describe('a wait', () => {
  it('ends with store_timeout that names the key, and the connection goes on', async () => {
    const client = await newClient();
    await expect(client.get('never', 30)).rejects.toMatchObject({
      code: 'store_timeout',
      message: expect.stringContaining("'never' did not appear"),
    });
    await client.set('never', text('after all'));
    expect((await client.get('never', 30)).toString()).toBe('after all');
  });

  it('that comes to its end while it is called off leaves the answers in order', async () => {
    const [writer, reader] = [await newClient(), await newClient()];
    const outcomes = new Set<string>();
    for (let i = 0; i < 60; i += 1) {
      const waiting = reader.get(`k${i}`, 3).then(
        (value) => value.toString(),
        (error) => error.code,
      );
      await new Promise((resolve) => setTimeout(resolve, 2 + (i % 3)));
      await writer.set(`k${i}`, text(`v${i}`));
      const outcome = await waiting;
      expect([`v${i}`, 'store_timeout']).toContain(outcome);
      outcomes.add(outcome);
      expect((await reader.get(`k${i}`)).toString()).toBe(`v${i}`);
    }
    expect(outcomes.size).toBeGreaterThan(1);
  });

  it('ends with store_unavailable as soon as the server is gone', async () => {
    const client = await newClient();
    const waiting = expect(client.get('never')).rejects.toMatchObject({ code: 'store_unavailable' });
    await new Promise((resolve) => setTimeout(resolve, 20));
    await server.close();
    await waiting;
    await expect(client.set('x', text(''))).rejects.toMatchObject({ code: 'store_unavailable' });
  });

  it('of a client that leaves is forgotten', async () => {
    const [leaving, staying] = [await newClient(), await newClient()];
    const waiting = expect(leaving.wait(['gone'])).rejects.toMatchObject({ code: 'store_unavailable' });
    leaving.close();
    await waiting;
    await staying.set('gone', text('x'));
    expect((await staying.get('gone')).toString()).toBe('x');
  });
});

describe('connecting', () => {
  it('waits for a server that comes later', async () => {
    const { port } = server;
    await server.close();
    const connecting = TcpStoreClient.connect({ host: '127.0.0.1', port, timeoutMs: 5000 });
    await new Promise((resolve) => setTimeout(resolve, 250));
    server = await TcpStoreServer.listen({ port });
    clients.push(await connecting);
  });

  it('ends with store_unavailable where nobody listens, and where somebody else does', async () => {
    const { port } = server;
    await server.close();
    const nobody = TcpStoreClient.connect({ host: '127.0.0.1', port, timeoutMs: 150 });
    await expect(nobody).rejects.toMatchObject({
      code: 'store_unavailable',
      message: expect.stringContaining('within 150 ms'),
    });
    const other = createServer((socket) =>
      socket.on('data', () => socket.end('HTTP/1.1 400 Bad Request\r\n\r\n')),
    );
    other.listen(0, '127.0.0.1');
    await once(other, 'listening');
    const address = other.address() as { port: number };
    const stranger = TcpStoreClient.connect({ host: '127.0.0.1', port: address.port, timeoutMs: 2000 });
    await expect(stranger).rejects.toMatchObject({ code: 'store_unavailable' });
    other.close();
    server = await TcpStoreServer.listen();
  });

  it('is refused to a server on anything but loopback, and on a port that is taken', async () => {
    await expect(TcpStoreServer.listen({ host: '0.0.0.0' })).rejects.toMatchObject({
      code: 'store_unavailable',
    });
    await expect(TcpStoreServer.listen({ port: server.port })).rejects.toMatchObject({
      code: 'store_unavailable',
    });
  });
});

describe('a server', () => {
  it('understands requests that come a byte at a time', async () => {
    const socket = await rawSocket();
    const bytes = new MessageWriter()
      .u8(Opcode.VALIDATE)
      .u32(MAGIC)
      .u8(Opcode.SET)
      .key('/slow')
      .value(text('value'))
      .u8(Opcode.PING)
      .u32(77)
      .bytes();
    const answer = once(socket, 'data');
    for (const byte of bytes) {
      socket.write(Buffer.of(byte));
      await new Promise((resolve) => setImmediate(resolve));
    }
    expect((await answer)[0]).toEqual(Buffer.of(77, 0, 0, 0));
    expect((await (await newClient()).get('slow')).toString()).toBe('value');
    socket.destroy();
  });

  const hello = () => new MessageWriter().u8(Opcode.VALIDATE).u32(MAGIC);
  it.each([
    ['another magic number', new MessageWriter().u8(Opcode.VALIDATE).u32(1)],
    ['no greeting', new MessageWriter().u8(Opcode.PING).u32(1)],
    ['an unknown request', hello().u8(99)],
    [
      'a key of 2^40 bytes',
      hello()
        .u8(Opcode.SET)
        .i64(1n << 40n),
    ],
    ['a negative length', hello().u8(Opcode.SET).key('/k').i64(-1n)],
    [
      'a list of 2^32 keys',
      hello()
        .u8(Opcode.CHECK)
        .i64(1n << 32n),
    ],
    ['a GET of what is not there', hello().u8(Opcode.GET).key('/nothing')],
    [
      'an ADD to what is no number',
      hello().u8(Opcode.SET).key('/k').value(text('x')).u8(Opcode.ADD).key('/k').i64(1n),
    ],
    ['a second WAIT', hello().u8(Opcode.WAIT).i64(1n).key('/a').u8(Opcode.WAIT).i64(1n).key('/b')],
  ])('closes the connection that sends %s, and no other', async (_, message) => {
    const client = await newClient();
    const socket = await rawSocket();
    socket.write(message.bytes());
    await once(socket, 'close');
    await client.set('alive', text('yes'));
    expect((await client.get('alive')).toString()).toBe('yes');
  });

  it('outlives 200 connections of seeded nonsense', async () => {
    const client = await newClient();
    const random = xoroshiro128plus(20261122);
    const byte = () => random.next() & 255;
    for (let i = 0; i < 200; i += 1) {
      const socket = await rawSocket();
      const bytes = Buffer.from(Array.from({ length: 1 + (byte() % 64) }, byte));
      socket.write(i % 2 === 0 ? bytes : Buffer.concat([hello().bytes(), bytes]));
      socket.on('error', () => undefined);
      socket.end();
      await once(socket.resume(), 'close');
    }
    await client.set('alive', text('yes'));
    expect((await client.get('alive')).toString()).toBe('yes');
  });
});
