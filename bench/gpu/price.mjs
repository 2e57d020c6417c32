// What fixed sums cost: one workload on two engines of one process in turn, A with fixed sums, B with cuBLASLt unrestricted.
// Arguments as throughput.mjs has them. Prints a JSON line for each pair of rounds: seconds of both, and A's over B's.
import { Engine } from 'kadenz';
import { makeRequests, runRequests } from './workloads.mjs';

const [model, text] = process.argv.slice(2);
const { engine: options, workloads } = JSON.parse(text);
const say = (line) => console.log(JSON.stringify(line));

const fixed = await Engine.create({ model, device: 'cuda', ...options });
const free = await Engine.create({ model, device: 'cuda', ...options, unrestrictedMatmul: true });
const { vocabSize, host } = fixed.info;
say({ kind: 'start', model, host, unrestrictedFingerprint: free.info.host.fingerprint });

for (const { name, requests: shape, repeat = 3 } of workloads) {
  const requestsOf = (round) => makeRequests({ ...shape, vocabSize, seed: 7 + round });
  for (const engine of [fixed, free]) await runRequests(engine, requestsOf(-1));
  for (let round = 0; round < repeat; round += 1) {
    const requests = requestsOf(round);
    const { seconds: fixedSeconds, tokens } = await runRequests(fixed, requests);
    const { seconds: unrestrictedSeconds } = await runRequests(free, requests);
    const ratio = fixedSeconds / unrestrictedSeconds;
    say({ kind: 'round', name, round, tokens, fixedSeconds, unrestrictedSeconds, ratio });
  }
}
await Promise.all([fixed.close(), free.close()]);
