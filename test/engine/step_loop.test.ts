import { describe, expect, it } from 'vitest';
import { decodeOutput, encodeCommand, encodeResult, WasmCore } from '../../dist/core/index.js';
import { runStepLoop } from '../../dist/rank/step_loop.js';
import { FakeHost, fakeToken } from '../support/fake_host.mjs';

const CONFIG = { maxModelLen: 64, numBlocks: 32, vocabSize: 100, maxNumSeqs: 4, maxNumBatchedTokens: 64 };

type Message = { kind: 'command'; command: Uint8Array } | { kind: 'stats'; id: number };
type Output = ReturnType<typeof decodeOutput>;

/** Gives its messages at the first chance, and stops the loop when it would sleep for good. */
class ScriptedInbox {
  stopped = false;
  sleeps = 0;
  readonly #messages: Message[];

  constructor(messages: Message[]) {
    this.#messages = messages;
  }

  next(): Message | null {
    return this.#messages.shift() ?? null;
  }

  sleep(): void {
    this.sleeps += 1;
    this.stopped = true;
  }
}

class RecordingOutbox {
  readonly outputs: Output[] = [];
  readonly stats: number[] = [];

  output(output: Uint8Array): void {
    this.outputs.push(decodeOutput(output.slice()));
  }

  answerStats(id: number): void {
    this.stats.push(id);
  }
}

function outboxOf(recorder: RecordingOutbox) {
  return {
    output: (output: Uint8Array) => recorder.output(output),
    stats: (id: number) => recorder.answerStats(id),
  };
}

const addRequest = (maxTokens: number): Message => ({
  kind: 'command',
  command: encodeCommand(1, {
    type: 'addRequests',
    requests: [{ id: 1, promptTokenIds: [1, 2, 3], seed: 9, maxTokens }],
  }),
});

describe('the step loop', () => {
  it('runs a request from its command to its last token, then sleeps', async () => {
    const inbox = new ScriptedInbox([addRequest(4)]);
    const recorder = new RecordingOutbox();
    runStepLoop({
      core: await WasmCore.create(CONFIG),
      host: new FakeHost(100),
      inbox,
      outbox: outboxOf(recorder),
    });
    const tokens = recorder.outputs.flatMap((output) => output.tokens.map(({ tokenId }) => tokenId));
    const expected = [3, 4, 5, 6].map((position) =>
      fakeToken({ seed: 9, sample: 0, position, vocabSize: 100 }),
    );
    expect(tokens).toEqual(expected);
    expect(recorder.outputs.flatMap(({ finishes }) => finishes.map(({ reason }) => reason))).toEqual([
      'length',
    ]);
    expect(inbox.sleeps).toBe(1);
  });

  it('plans and submits a step while the one before is still in flight', async () => {
    const host = new FakeHost(100);
    let inFlight = 0;
    let mostInFlight = 0;
    const watched = {
      submit(instruction: Uint8Array) {
        inFlight += 1;
        mostInFlight = Math.max(mostInFlight, inFlight);
        host.submit(instruction);
      },
      collect() {
        inFlight -= 1;
        return host.collect();
      },
    };
    const outbox = outboxOf(new RecordingOutbox());
    runStepLoop({
      core: await WasmCore.create(CONFIG),
      host: watched,
      inbox: new ScriptedInbox([addRequest(8)]),
      outbox,
    });
    expect(mostInFlight).toBe(2);
    expect(inFlight).toBe(0);
  });

  it('answers a question for statistics between two steps', async () => {
    const recorder = new RecordingOutbox();
    const inbox = new ScriptedInbox([addRequest(2), { kind: 'stats', id: 7 }]);
    runStepLoop({
      core: await WasmCore.create(CONFIG),
      host: new FakeHost(100),
      inbox,
      outbox: outboxOf(recorder),
    });
    expect(recorder.stats).toEqual([7]);
  });

  it('throws a sentence instead of sleeping when requests wait and no step can be planned', async () => {
    const core = await WasmCore.create(CONFIG);
    const stuck = {
      apply: (command: Uint8Array) => core.apply(command),
      schedule: () => null,
      commit: (result: Uint8Array) => core.commit(result),
      stats: () => core.stats(),
    };
    const outbox = outboxOf(new RecordingOutbox());
    const run = () =>
      runStepLoop({
        core: stuck,
        host: new FakeHost(100),
        inbox: new ScriptedInbox([addRequest(2)]),
        outbox,
      });
    expect(run).toThrowError(
      expect.objectContaining({
        code: 'no_progress',
        message: expect.stringContaining('1 requests are held'),
      }),
    );
  });

  it('sleeps with requests that a pause holds back', async () => {
    const pause: Message = {
      kind: 'command',
      command: encodeCommand(2, { type: 'pauseGeneration', mode: 'keep' }),
    };
    const inbox = new ScriptedInbox([pause, addRequest(2)]);
    const recorder = new RecordingOutbox();
    runStepLoop({
      core: await WasmCore.create(CONFIG),
      host: new FakeHost(100),
      inbox,
      outbox: outboxOf(recorder),
    });
    expect(inbox.sleeps).toBe(1);
    expect(recorder.outputs.flatMap(({ tokens }) => tokens)).toEqual([]);
  });

  it('fails the request, not the loop, when the host could not execute a step', async () => {
    const host = new FakeHost(100);
    let step = 0;
    const failing = {
      submit: (instruction: Uint8Array) => host.submit(instruction),
      collect() {
        const result = host.collect();
        step += 1;
        return step === 2 ? encodeResult({ step, code: 'step_failed', message: 'told to' }) : result;
      },
    };
    const recorder = new RecordingOutbox();
    const inbox = new ScriptedInbox([addRequest(8)]);
    runStepLoop({ core: await WasmCore.create(CONFIG), host: failing, inbox, outbox: outboxOf(recorder) });
    const [finish] = recorder.outputs.flatMap(({ finishes }) => finishes);
    expect(finish).toMatchObject({ reason: 'error', code: 'step_failed' });
    expect(inbox.sleeps).toBe(1);
  });
});
