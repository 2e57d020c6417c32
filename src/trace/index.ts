// Traces: recording a run, reading it back, replaying it.

export { TRACE_VERSION } from './frame.js';
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
export { TraceWriter, type TraceWriterOptions } from './writer.js';
