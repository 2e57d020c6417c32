// Replays a trace through the core and prints digests of everything that came of it: one line of JSON. Runs on any Node.
//   node digest_trace.mjs run.kdz
import { createHash } from 'node:crypto';
import { decodeConfigure, WasmCore } from '../../dist/core/index.js';
import { TraceReader } from '../../dist/trace/index.js';

const reader = await TraceReader.open(process.argv[2]);
const core = await WasmCore.create(decodeConfigure(reader.header.configure));
const instructions = createHash('sha256');
const outputs = createHash('sha256');
let steps = 0;
for (const event of reader.events()) {
  if (event.kind === 'end') break;
  for (let round = 0; round < event.rounds; round += 1) {
    for (let bytes = core.schedule(); bytes !== null; bytes = core.schedule()) instructions.update(bytes);
  }
  outputs.update(event.kind === 'command' ? core.apply(event.command) : core.commit(event.result));
  if (event.kind === 'step') steps += 1;
}
core.checkIntegrity();
const report = {
  steps,
  digest: core.digest().toString(16),
  instructions: instructions.digest('hex'),
  outputs: outputs.digest('hex'),
  memory: createHash('sha256').update(core.snapshot()).digest('hex'),
  problem: reader.problem,
};
reader.close();
console.log(JSON.stringify(report));
