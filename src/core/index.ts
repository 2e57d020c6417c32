// kadenz/core: the deterministic scheduler by itself, with no host and no model.

export { KadenzError, type KadenzErrorCode, type KadenzErrorDetails } from '../errors.js';
export type { CommandBody, CommandObject, MemoryTag, PauseMode } from './commands.js';
export { encodeCommand, encodeConfigure, memoryTagBits } from './commands.js';
export type { CoreConfig, ResolvedCoreConfig } from './config.js';
export { decodeConfigure } from './configure.js';
export { Core } from './core.js';
export { finishMessage, messageBuffer, putVector } from './flat.js';
export type {
  ControlObject,
  InstructionObject,
  OpenObject,
  SampleObject,
  SequenceObject,
  StepPlanObject,
} from './instructions.js';
export { decodeInstruction, decodeParams, memoryTags } from './instructions.js';
export { INTEGRITY_RULES } from './integrity_rules.js';
export type {
  InventoryObject,
  RequestState,
  SequenceStateName,
  SequenceStateObject,
} from './inventory.js';
export { decodeInventory } from './inventory.js';
export type { FinishObject, FinishReasonName, OutputObject, StatsObject } from './outputs.js';
export { decodeOutput, decodeStats } from './outputs.js';
export type { RequestObject, SamplingParamsObject } from './requests.js';
export { checkRequest } from './requests.js';
export type { CodeName, ResultObject } from './results.js';
export { decodeResult, encodeResult, resultFor } from './results.js';
export { coreSha256, WasmCore } from './wasm_core.js';
