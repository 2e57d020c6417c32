// The public names of kadenz. The scheduler alone is the entry kadenz/core.

export type { MemoryTag, ReleaseOptions, ResumeOptions } from './engine/memory.js';
export type { EngineLogger, EngineOptions } from './engine/options.js';
export type { RecordOptions } from './engine/recording.js';
export { type ExecutionOptions, replayExecution } from './engine/replay_execution.js';
export { deriveSeed } from './engine/seed.js';
export type {
  FinishReason,
  GenerateRequest,
  GenerateResult,
  LogprobsMode,
  PauseMode,
  RequestId,
  Sample,
  SamplingOptions,
  StreamDelta,
  TopLogprobs,
} from './engine/types.js';
export type { CallOptions, EngineInfo, EngineStats, ScoreOptions } from './engine.js';
export { Engine } from './engine.js';
export { ERROR_CODES, KadenzError, type KadenzErrorCode, type KadenzErrorDetails } from './errors.js';
export type { Device } from './host/device.js';
export type { HostDtype, HostInfo } from './host/host.js';
export {
  type CudaProbe,
  type GpuDescription,
  type HostProbe,
  type ProbeOptions,
  type ProbeProblem,
  probeHost,
} from './host/probe.js';
export type { StartProgress } from './host/start_progress.js';
export type { ChatMessage } from './tokenizer/index.js';
export type { Difference, ReplayReport } from './trace/index.js';
