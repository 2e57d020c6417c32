// Our TCPStore for tests with stock PyTorch: `serve` prints its port and runs until its input ends; `client HOST PORT [PREFIX]` takes calls as JSON
// lines ([name, ...arguments], bytes as latin1 text) and prints {"value"} or {"error": code} for each.
import { createInterface } from 'node:readline';

const { readNcclId, StatelessGroup, TcpStoreClient, TcpStoreServer, writeNcclId } = await import(
  new URL('../../dist/tcp_store/index.js', import.meta.url)
);
const [mode, host, port, prefix] = process.argv.slice(2);
const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);
const bytes = (text) => Buffer.from(text, 'latin1');

function callsOf(client) {
  let group;
  return {
    set: (key, value) => client.set(key, bytes(value)),
    append: (key, value) => client.append(key, bytes(value)),
    compareSet: (key, expected, desired) => client.compareSet(key, bytes(expected), bytes(desired)),
    readNcclId: (name, timeoutMs) => readNcclId(client, name, timeoutMs),
    writeNcclId: (name, id) => writeNcclId(client, name, bytes(id)),
    joinGroup: (rank, worldSize, timeoutMs) => {
      group = new StatelessGroup(client, { rank, worldSize, timeoutMs });
    },
    receiveId: (source) => group.receiveNcclId(source),
    sendId: (id) => group.sendNcclId(bytes(id)),
    barrier: () => group.barrier(),
  };
}

if (mode === 'serve') {
  const server = await TcpStoreServer.listen();
  say({ port: server.port });
  process.stdin.resume().on('end', () => server.close());
} else {
  const client = await TcpStoreClient.connect({ host, port: Number(port), timeoutMs: 20_000, prefix });
  const calls = callsOf(client);
  say({ value: 'connected' });
  for await (const line of createInterface({ input: process.stdin })) {
    const [name, ...rest] = JSON.parse(line);
    try {
      const value = await (calls[name] === undefined ? client[name](...rest) : calls[name](...rest));
      say({ value: Buffer.isBuffer(value) ? value.toString('latin1') : (value ?? null) });
    } catch (error) {
      say({ error: error.code });
    }
  }
  client.close();
}
