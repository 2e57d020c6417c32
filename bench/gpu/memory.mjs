// Start and memory of one host: loading, certificate and graphs; then release and resume, as a trainer asks for them between rollouts.
// Prints JSON lines. Arguments: model directory. Everything is timed around submit and collect of the instruction.
import { execFileSync } from 'node:child_process';
import * as flatbuffers from 'flatbuffers';
import { Instruction, MemoryTags, ReleaseMemory, ResumeMemory, Work } from '../../dist/generated/index.js';
import { openHost } from '../../dist/host/native_host.js';
import { loadModel } from '../../dist/model/index.js';

const KV_CACHE = MemoryTags.kv_cache;
const WEIGHTS = MemoryTags.weights;
const ROUNDS = 4;

function usedBytes() {
  const query = ['--query-gpu=memory.used', '--format=csv,noheader,nounits'];
  return Number(execFileSync('nvidia-smi', query, { encoding: 'utf8' }).split('\n')[0]) * 1024 ** 2;
}

let step = 0;
function control(host, kind, tags) {
  const builder = new flatbuffers.Builder();
  builder.forceDefaults(true);
  const work =
    kind === Work.ReleaseMemory
      ? ReleaseMemory.createReleaseMemory(builder, tags, false)
      : ResumeMemory.createResumeMemory(builder, tags);
  Instruction.startInstruction(builder);
  step += 1;
  Instruction.addStep(builder, BigInt(step));
  Instruction.addWorkType(builder, kind);
  Instruction.addWork(builder, work);
  builder.finish(Instruction.endInstruction(builder));
  const begin = performance.now();
  host.submit(builder.asUint8Array());
  host.collect();
  return performance.now() - begin;
}

const marks = {};
const starting = performance.now();
const host = openHost(
  {
    model: loadModel(process.argv[2]),
    ...{ dtype: 'bfloat16', numBlocks: 0, blockSize: 16, maxNumSeqs: 256, maxModelLen: 4096 },
    ...{ maxNumBatchedTokens: 8192, numThreads: 1 },
    cuda: {
      deviceIndex: 0,
      gpuMemoryUtilization: 0.9,
      mostBlocks: 2 ** 24,
      cudaGraphs: true,
      unrestrictedMatmul: false,
    },
  },
  (stage) => {
    marks[stage] ??= { first: performance.now() };
    marks[stage].last = performance.now();
  },
);
const ready = performance.now();
const { weightBytes, kvBytes, isa, fingerprint } = host.info;
const seconds = (from, to) => (to - from) / 1000;
console.log(
  JSON.stringify({
    ...{ isa, fingerprint, weightBytes, kvBytes, usedBytes: usedBytes() },
    contextAndCertificateSeconds: seconds(starting, marks.weights.first),
    weightsSeconds: seconds(marks.weights.first, marks.graphs.first),
    weightsBytesPerSecond: weightBytes / seconds(marks.weights.first, marks.graphs.first),
    graphsSeconds: seconds(marks.graphs.first, ready),
    startSeconds: seconds(starting, ready),
  }),
);
for (let round = 0; round < ROUNDS; round += 1) {
  const releaseCacheMs = control(host, Work.ReleaseMemory, KV_CACHE);
  const releaseWeightsMs = control(host, Work.ReleaseMemory, WEIGHTS);
  const released = round === ROUNDS - 1 ? usedBytes() : null;
  const resumeWeightsMs = control(host, Work.ResumeMemory, WEIGHTS);
  const resumeCacheMs = control(host, Work.ResumeMemory, KV_CACHE);
  console.log(
    JSON.stringify({
      ...{
        round,
        releaseCacheMs,
        resumeCacheMs,
        releaseWeightsMs,
        resumeWeightsMs,
        usedBytesReleased: released,
      },
      releaseWeightsGBps: weightBytes / releaseWeightsMs / 1e6,
      resumeWeightsGBps: weightBytes / resumeWeightsMs / 1e6,
    }),
  );
}
host.close();
