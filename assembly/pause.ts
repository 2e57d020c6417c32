// Pausing and resuming generation. A pause is acknowledged when what it asks for has happened: no step in flight, and for mode wait
// nothing left but requests that came later.
import { CoreState, MAX_PENDING_PAUSES, Pause } from './core_state';
import { finishAll, preemptAll, queueHeld } from './lifecycle';
import { putAck } from './output';
import { PauseMode } from './wire/generated/command';
import { ErrorCode, FinishReason } from './wire/generated/types';

export function pause(c: CoreState, command: u64, mode: u8): void {
  if (mode > PauseMode.retract)
    return putAck(c, command, ErrorCode.invalid_argument, <i64>mode, <i64>PauseMode.retract);
  if (c.numPendingPauses == MAX_PENDING_PAUSES) return putAck(c, command, ErrorCode.command_in_progress);
  store<u64>(c.pendingPauses + (c.numPendingPauses++ << 3), command);
  if (mode == PauseMode.wait) {
    if (c.pause == Pause.none) c.pause = Pause.draining;
    return;
  }
  c.pause = Pause.paused;
  if (mode == PauseMode.abort) finishAll(c, FinishReason.abort);
  if (mode == PauseMode.retract) preemptAll(c);
}

export function resume(c: CoreState, command: u64): void {
  if (c.updatingWeights) return putAck(c, command, ErrorCode.weight_update_in_progress);
  if (!c.weightsUsable) return putAck(c, command, ErrorCode.weights_unavailable);
  acknowledgePauses(c, ErrorCode.not_paused);
  c.pause = Pause.none;
  queueHeld(c);
  putAck(c, command, ErrorCode.none);
}

function acknowledgePauses(c: CoreState, code: u16): void {
  for (let index: u32 = 0; index < c.numPendingPauses; index++) {
    putAck(c, load<u64>(c.pendingPauses + ((<usize>index) << 3)), code);
  }
  c.numPendingPauses = 0;
}

/** After each apply and commit: a drain may be over, pending pauses may have come true. */
export function settlePause(c: CoreState): void {
  if (c.pause == Pause.draining && c.numLive == c.numHeld) c.pause = Pause.paused;
  if (c.pause == Pause.paused && c.numStepsInFlight == 0) acknowledgePauses(c, ErrorCode.none);
}
