// Traces: recording a run, reading it back, replaying it.

export { TRACE_VERSION } from './frame.js';
export { type History, readHistory } from './history/history.js';
export type { TraceHeader } from './payload.js';
export type { StepEvent } from './read_steps.js';
export {
  type CommandEvent,
  type EndEvent,
  type TraceEvent,
  type TraceProblem,
  TraceReader,
} from './reader.js';
export { type RecorderOptions, RecordingCore, TraceRecorder } from './recorder.js';
export { type BisectReport, bisectTraces } from './replay/bisect.js';
export { type Difference, fieldName, snakeCase } from './replay/difference.js';
export {
  type CoreState,
  type Executor,
  type ReplayOptions,
  type ReplayReport,
  replayTrace,
} from './replay/replay.js';
export { configOf } from './replay/replay_core.js';
export { type ReplayPoolOptions, replayTraces } from './replay/replay_pool.js';
export type { ReplayOutcome } from './replay/replay_worker.js';
export { TraceWriter, type TraceWriterOptions } from './writer.js';
