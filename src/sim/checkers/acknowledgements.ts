// Each command is acknowledged once, with a code that its kind of command can have. Which ones these are:
// docs/scheduling.md.

import type { CommandBody } from '../../core/index.js';
import { ErrorCode } from '../../generated/index.js';
import { fail } from '../failure.js';
import type { OutputView } from '../outputs.js';

type CommandType = CommandBody['type'];

const UPDATE_CODES = [
  ErrorCode.weight_update_in_progress,
  ErrorCode.command_in_progress,
  ErrorCode.step_failed,
];

/** Beside `none`, and `shut_down` after a shutdown. A control instruction may fail on the host, and take those behind it along. */
const REFUSALS: Readonly<Record<CommandType, readonly ErrorCode[]>> = {
  addRequests: [],
  abortRequests: [],
  pauseGeneration: [ErrorCode.not_paused, ErrorCode.command_in_progress],
  resumeGeneration: [ErrorCode.weight_update_in_progress, ErrorCode.weights_unavailable],
  resetPrefixCache: [ErrorCode.requests_running],
  beginWeightUpdate: [...UPDATE_CODES, ErrorCode.memory_released, ErrorCode.requests_running],
  finishWeightUpdate: [...UPDATE_CODES, ErrorCode.no_weight_update, ErrorCode.weight_version_not_monotonic],
  releaseMemory: [
    ErrorCode.invalid_argument,
    ErrorCode.memory_released,
    ErrorCode.command_in_progress,
    ErrorCode.step_failed,
  ],
  resumeMemory: [
    ErrorCode.invalid_argument,
    ErrorCode.memory_not_released,
    ErrorCode.command_in_progress,
    ErrorCode.step_failed,
  ],
  loadAdapter: [
    ErrorCode.invalid_argument,
    ErrorCode.adapter_exists,
    ErrorCode.too_many_adapters,
    ErrorCode.command_in_progress,
    ErrorCode.out_of_token_memory,
    ErrorCode.step_failed,
  ],
  unloadAdapter: [
    ErrorCode.unknown_adapter,
    ErrorCode.adapter_in_use,
    ErrorCode.command_in_progress,
    ErrorCode.step_failed,
  ],
  setParallelGroups: [
    ErrorCode.invalid_argument,
    ErrorCode.requests_running,
    ErrorCode.command_in_progress,
    ErrorCode.step_failed,
  ],
  shutdown: [ErrorCode.command_in_progress, ErrorCode.step_failed],
};

export class AcknowledgementChecker {
  readonly #pending = new Map<number, CommandType>();

  sent(id: number, type: CommandType): void {
    this.#pending.set(id, type);
  }

  get numPending(): number {
    return this.#pending.size;
  }

  /** Gives the code of command `id` when it is acknowledged here, else null. */
  take({ output }: OutputView, id: number | null): ErrorCode | null {
    let own: ErrorCode | null = null;
    for (let i = 0; i < output.ackCommandLength(); i++) {
      const command = Number(output.ackCommand(i)!);
      const code = output.ackCode(i)!;
      const type = this.#pending.get(command);
      if (type === undefined)
        fail(
          'acknowledgements',
          `Command ${command} is acknowledged (code ${code}), and none such is pending.`,
        );
      this.#pending.delete(command);
      if (code !== ErrorCode.none && code !== ErrorCode.shut_down && !REFUSALS[type].includes(code))
        fail(
          'acknowledgements',
          `Command ${command} (${type}) is refused with code ${code}, which it can't be.`,
        );
      if (command === id) own = code;
    }
    return own;
  }

  checkNonePending(): void {
    for (const [id, type] of this.#pending)
      fail('acknowledgements', `Command ${id} (${type}) was never acknowledged.`);
  }
}
