// The names of kadenz/core that the core's tests use, in one place.
export {
  type CommandBody,
  Core,
  type CoreConfig,
  decodeInstruction,
  type InstructionObject,
  type OutputObject,
  type RequestObject,
  type ResultObject,
  resultFor,
  type StepPlanObject,
} from '../../src/core/index.js';
