// Our TCPStore for tests with stock PyTorch: `serve` prints its port and runs until its input ends; `client HOST PORT [PREFIX]` takes calls as JSON
// lines ([name, ...arguments], bytes as latin1 text) and prints {"value"} or {"error": code} for each.
import { createInterface } from 'node:readline';

const { TcpStoreClient, TcpStoreServer } = await import(
  new URL('../../dist/tcp_store/index.js', import.meta.url)
);
const [mode, host, port, prefix] = process.argv.slice(2);
const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);
const BYTES = new Set(['set', 'append', 'compareSet']);

if (mode === 'serve') {
  const server = await TcpStoreServer.listen();
  say({ port: server.port });
  process.stdin.resume().on('end', () => server.close());
} else {
  const client = await TcpStoreClient.connect({ host, port: Number(port), timeoutMs: 20_000, prefix });
  say({ value: 'connected' });
  for await (const line of createInterface({ input: process.stdin })) {
    const [name, key, ...rest] = JSON.parse(line);
    const values = BYTES.has(name) ? rest.map((text) => Buffer.from(text, 'latin1')) : rest;
    try {
      const value = await client[name](key, ...values);
      say({ value: Buffer.isBuffer(value) ? value.toString('latin1') : (value ?? null) });
    } catch (error) {
      say({ error: error.code });
    }
  }
  client.close();
}
