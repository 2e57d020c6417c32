import { createHash } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { resolveCoreConfig } from '../../src/core/config.js';
import {
  type CommandObject,
  Core,
  type CoreConfig,
  checkRequest,
  decodeInstruction,
  decodeOutput,
  encodeCommand,
  encodeResult,
  KadenzError,
  type RequestObject,
  resultFor,
  WasmCore,
} from '../../src/core/index.js';
import { SNAPSHOT_HEADER_BYTES } from '../../src/core/snapshot.js';
import { errorFromWire } from '../../src/errors.js';
import { EXAMPLE_COMMANDS, EXAMPLE_RESULT } from './examples.js';
import { flipped, truncations } from './mutations.js';

const CONFIG: CoreConfig = {
  maxModelLen: 256,
  numBlocks: 64,
  vocabSize: 1000,
  maxNumSeqs: 8,
  maxNumRequests: 50,
};

const request = (id: number, more: Partial<RequestObject> = {}): RequestObject => ({
  id,
  promptTokenIds: Array.from({ length: 20 }, (_, i) => id + i),
  maxTokens: 5,
  ...more,
});

const add = (...requests: RequestObject[]): CommandObject => ({ type: 'addRequests', requests });

/** Runs until nothing is left to do. */
function drain(core: Core): string[] {
  const seen: string[] = [];
  for (let step = core.schedule(); step !== null; step = core.schedule()) {
    seen.push(
      JSON.stringify(step, (_, value: unknown) => (typeof value === 'bigint' ? String(value) : value)),
    );
    core.commit(resultFor(step, (sample) => (sample.position * 7) % 1000));
    core.checkIntegrity();
  }
  return seen;
}

/** Megabytes compare quickly so, and a failure is readable. */
const hashOf = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

async function refusalOf(config: Record<string, unknown>): Promise<KadenzError> {
  const error: unknown = await WasmCore.create({ ...CONFIG, ...config } as CoreConfig).catch(
    (reason: unknown) => reason,
  );
  if (!(error instanceof KadenzError))
    throw new Error(`expected a refusal of ${JSON.stringify(config)}, got ${error}`);
  return error;
}

describe('a configuration', () => {
  it('is refused with the name of the option and its range', async () => {
    const refusals: [Record<string, unknown>, string][] = [
      [{ maxNumSeqs: 0 }, 'maxNumSeqs is 0; it must be an integer from 1 to 65536.'],
      [{ numBlocks: -1 }, 'numBlocks is -1; it must be an integer from 1 to 16777216.'],
      [{ vocabSize: undefined }, 'vocabSize is undefined; it must be an integer from 1 to 16777216.'],
      [{ maxModelLen: 1.5 }, 'maxModelLen is 1.5; it must be an integer from 1 to 16777216.'],
      [{ blockSize: 24 }, 'blockSize is 24; it must be a power of two.'],
      [{ maxStepsInFlight: 3 }, 'maxStepsInFlight is 3; it must be an integer from 1 to 2.'],
      [{ eosTokenIds: [1000] }, 'eosTokenIds holds 1000; token ids are integers from 0 to 999.'],
      [{ enablePrefixCache: 1 }, 'enablePrefixCache is 1; it must be true or false.'],
    ];
    for (const [config, sentence] of refusals) {
      expect(await refusalOf(config)).toMatchObject({ code: 'invalid_config', message: sentence });
    }
    expect((await refusalOf({ maxSeqs: 3 })).message).toContain(
      "A core has no option 'maxSeqs'; it has maxModelLen,",
    );
  });

  it('that takes 4 GiB or more of scheduler memory is refused before the memory is taken', async () => {
    const error = await refusalOf({ maxModelLen: 2 ** 24, numBlocks: 2 ** 24, maxNumSeqs: 2 ** 16 });
    expect(error).toMatchObject({ code: 'invalid_config' });
    expect(error.message).toContain('4 GiB');
  });

  it('is accepted by the core at both ends of each range that fits', async () => {
    const ends = { ...CONFIG, maxModelLen: 1, numBlocks: 1, vocabSize: 1, blockSize: 2, maxNumSeqs: 1 };
    await WasmCore.create({ ...ends, maxNumBatchedTokens: 1, maxNumRequests: 1, maxN: 1, maxLogprobs: 0 });
    await WasmCore.create({ ...CONFIG, blockSize: 1024, vocabSize: 2 ** 24, maxN: 2 ** 24, maxLogprobs: 64 });
    expect(resolveCoreConfig(CONFIG)).toMatchObject({
      blockSize: 16,
      maxNumSeqs: 8,
      enablePrefixCache: true,
    });
  });
});

describe('a request', () => {
  it('that the wire can not carry throws with request, field and value; one that the core judges does not', async () => {
    const core = await Core.create(CONFIG);
    const unfit: [Partial<RequestObject>, string, string][] = [
      [{ n: 1.5 }, 'invalid_n', 'Request 1: n is 1.5;'],
      [{ n: -1 }, 'invalid_n', 'Request 1: n is -1;'],
      [
        { promptTokenIds: [1, 2 ** 31] },
        'prompt_token_out_of_range',
        'Request 1: promptTokenIds is 2147483648;',
      ],
      [{ promptTokenIds: [Number.NaN] }, 'prompt_token_out_of_range', 'Request 1: promptTokenIds is NaN;'],
      [{ temperature: '1' as unknown as number }, 'invalid_temperature', 'Request 1: temperature is "1";'],
      [{ seed: 0.5 }, 'invalid_argument', 'Request 1: seed is 0.5;'],
      [{ logprobsMode: 'cooked' as 'raw' }, 'invalid_logprobs_mode', "Request 1: logprobsMode is 'cooked';"],
    ];
    for (const [fields, code, start] of unfit) {
      const refused = () => core.apply(add(request(1, fields)));
      expect(refused).toThrow(KadenzError);
      expect(refused).toThrow(start);
      expect(() => checkRequest(request(1, fields))).toThrow(expect.objectContaining({ code }));
    }
    expect(core.stats().numRequests).toBe(0);
  });

  it('that breaks a limit ends with a code, and the value and the limit make the sentence', async () => {
    const core = await Core.create({ ...CONFIG, maxN: 64 });
    const wrong: [Partial<RequestObject>, string, string][] = [
      [{ n: 0 }, 'invalid_n', 'n is 0; it must be from 1 to 64.'],
      [{ n: 1e9 }, 'invalid_n', 'n is 1000000000; it must be from 1 to 64.'],
      [{ temperature: -1 }, 'invalid_temperature', 'temperature is -1;'],
      [{ temperature: Number.NaN }, 'invalid_temperature', 'temperature is NaN;'],
      [{ topP: 0 }, 'invalid_top_p', 'topP is 0;'],
      [{ topP: 1.1 }, 'invalid_top_p', 'topP is 1.1;'],
      [{ promptTokenIds: [] }, 'prompt_empty', 'The prompt is empty;'],
      [
        { promptTokenIds: [5, 1000] },
        'prompt_token_out_of_range',
        "token id 1000; the model's vocabulary has the ids 0 to 999.",
      ],
      [{ promptTokenIds: [-1] }, 'prompt_token_out_of_range', 'token id -1;'],
      [
        { promptTokenIds: new Int32Array(256) },
        'prompt_too_long',
        'The prompt has 256 tokens; at most 255 fit',
      ],
      [{ minTokens: 6 }, 'invalid_min_tokens', 'minTokens is 6, more than maxTokens allows (5).'],
      [{ logprobs: 21 }, 'invalid_logprobs', 'logprobs is 21; it must be from -1 (none) to 20.'],
    ];
    const requests = wrong.map(([fields], i) => request(i + 1, fields));
    const { finishes, acks } = core.apply(add(...requests, request(100)));
    expect(acks).toEqual([{ command: 1, code: 'none', value: 0, limit: 0 }]);
    expect(finishes.map(({ request: id, reason, code }) => [id, reason, code])).toEqual(
      wrong.map(([, code], i) => [i + 1, 'error', code]),
    );
    for (const [i, [, code, sentence]] of wrong.entries()) {
      const { value, limit } = finishes[i]!;
      const error = errorFromWire(finishes[i]!.code as never, { value, limit, request: i + 1 });
      expect(error).toMatchObject({ code, details: { request: i + 1 } });
      expect(error.message).toContain(sentence);
    }
    expect(core.stats().numRequests).toBe(1);
  });
});

describe('a snapshot', () => {
  it('restored goes on byte for byte as the core went on from there', async () => {
    const core = await Core.create(CONFIG);
    core.apply(add(request(1, { n: 3 }), request(2), request(3, { priority: -1 })));
    core.commit(resultFor(core.schedule()!, () => 3));
    const inFlight = core.schedule()!;
    const before = core.snapshot();
    core.commit(resultFor(inFlight, () => 4));
    const first = drain(core);
    const after = core.snapshot();
    core.restore(before);
    expect(hashOf(core.snapshot())).toBe(hashOf(before));
    core.commit(resultFor(inFlight, () => 4));
    expect(drain(core)).toEqual(first);
    expect(hashOf(core.snapshot())).toBe(hashOf(after));
    expect(first.length).toBeGreaterThan(2);
  });

  it('forked gives two cores that agree on the same input and do not touch each other', async () => {
    const core = await Core.create(CONFIG);
    core.apply(add(request(1), request(2)));
    core.commit(resultFor(core.schedule()!, () => 3));
    const fork = await core.fork();
    expect(hashOf(fork.snapshot())).toBe(hashOf(core.snapshot()));
    const untouched = hashOf(core.snapshot());
    const planned = drain(fork);
    expect(hashOf(core.snapshot())).toBe(untouched);
    expect(drain(core)).toEqual(planned);
    expect(core.digest()).toBe(fork.digest());
    fork.apply(add(request(3)));
    drain(fork);
    expect(core.digest()).not.toBe(fork.digest());
  });

  it('that is cut off, foreign or of another size is refused, and the core goes on', async () => {
    const core = await Core.create(CONFIG);
    const snapshot = core.snapshot();
    const foreign = snapshot.slice();
    foreign[20]! ^= 1;
    const larger = (await Core.create({ ...CONFIG, numBlocks: 500_000 })).snapshot();
    const refusals: [Uint8Array, string][] = [
      [snapshot.slice(0, 10), '10 bytes are too few'],
      [snapshot.slice(0, -1), 'it says'],
      [foreign, 'another build of the core made it'],
      [new Uint8Array(100), 'it does not begin as one'],
      [larger, 'pages of memory; this one has'],
    ];
    for (const [bytes, sentence] of refusals) {
      expect(() => core.restore(bytes)).toThrow(expect.objectContaining({ code: 'invalid_snapshot' }));
      expect(() => core.restore(bytes)).toThrow(sentence);
    }
    core.apply(add(request(1)));
    expect(drain(core).length).toBeGreaterThan(0);
  });
});

describe('a core whose books are broken', () => {
  /** A snapshot in which the last word of the core's state that holds `was` holds `now`. */
  function withWord(snapshot: Uint8Array, was: number, now: number): Uint8Array {
    const [first, bytes] = [SNAPSHOT_HEADER_BYTES + 0x10000, 0x800];
    const corrupt = snapshot.slice();
    const words = new Uint32Array(corrupt.slice(first, first + bytes).buffer);
    const at = words.lastIndexOf(was);
    if (at < 0) throw new Error(`no word of the state is ${was}`);
    new DataView(corrupt.buffer).setUint32(first + 4 * at, now, true);
    return corrupt;
  }

  it('names the rule that does not hold', async () => {
    const core = await Core.create({ ...CONFIG, numBlocks: 4093 });
    core.checkIntegrity();
    const corrupt = await Core.fromSnapshot(withWord(core.snapshot(), 4093, 4092));
    const sentence = 'integrity: free, cached and held blocks add up to the whole pool';
    expect(() => corrupt.checkIntegrity()).toThrow(sentence);
    core.checkIntegrity();
  });

  it('stops on what it can not do, with the rule, and gives the same error from then on', async () => {
    const core = await Core.create({ ...CONFIG, maxNumRequests: 4093 });
    const snapshot = core.snapshot();
    const corrupt = await Core.fromSnapshot(withWord(snapshot, 4093, 0));
    const errorOf = (call: () => unknown): unknown => {
      try {
        return call();
      } catch (error) {
        return error;
      }
    };
    const first = errorOf(() => corrupt.apply(add(request(1))));
    expect(String(first)).toMatch(
      /the core stopped on a broken invariant: a request record is free when one is taken \(.*:\d+:\d+\)/,
    );
    expect(first).not.toBeInstanceOf(KadenzError);
    expect(errorOf(() => corrupt.stats())).toBe(first);
    expect(errorOf(() => corrupt.restore(snapshot))).toBe(first);
  });
});

describe('hostile bytes', () => {
  const NUM_FLIPS = 2_000;

  it(`given to apply are acknowledged and never trap (cut off anywhere; seeds 0-${NUM_FLIPS - 1})`, async () => {
    const core = await WasmCore.create(CONFIG);
    const messages = EXAMPLE_COMMANDS.map(({ command }) => encodeCommand(7, command));
    const hostile = messages.flatMap(truncations);
    for (let seed = 0; seed < NUM_FLIPS; seed += 1)
      hostile.push(flipped(messages[seed % messages.length]!, seed));
    for (let seed = 0; seed < NUM_FLIPS; seed += 1) hostile.push(flipped(messages[0]!, seed));
    for (const bytes of hostile) {
      const acks = decodeOutput(core.apply(bytes)).acks.length;
      expect(acks).toBeLessThanOrEqual(1);
      const instruction = core.schedule();
      if (instruction !== null) core.commit(encodeResult(resultFor(decodeInstruction(instruction))));
    }
    core.checkIntegrity();
  });

  it(`given to commit are refused with a code or taken, and never trap (cut off anywhere; seeds 0-${NUM_FLIPS - 1})`, async () => {
    const core = await WasmCore.create(CONFIG);
    core.apply(encodeCommand(1, add(request(1, { n: 3, logprobs: 2 }), request(2))));
    const instruction = decodeInstruction(core.schedule()!);
    const valid = encodeResult({
      ...resultFor(instruction, () => 5),
      message: 'well',
      rowCodes: ['none', 'none', 'none', 'none'],
    });
    const before = core.snapshot();
    const stats = hashOf(core.stats());
    for (const result of [...truncations(valid).slice(0, -8), encodeResult(EXAMPLE_RESULT)]) {
      const { acks, tokens } = decodeOutput(core.commit(result));
      expect(['result_malformed', 'result_unexpected']).toContain(acks[0]!.code);
      expect([acks.length, tokens.length]).toEqual([1, 0]);
    }
    expect(hashOf(core.stats())).toBe(stats);
    let taken = 0;
    for (let seed = 0; seed < NUM_FLIPS; seed += 1) {
      core.commit(flipped(valid, seed));
      const took = hashOf(core.stats()) !== stats;
      if (!took) continue;
      taken += 1;
      core.checkIntegrity();
      core.restore(before);
    }
    expect(taken).toBeGreaterThan(0);
    expect(taken).toBeLessThan(NUM_FLIPS);
    expect(decodeOutput(core.commit(valid)).tokens).toHaveLength(4);
  });

  it('that are larger than the buffer for them are refused by size', async () => {
    const core = await WasmCore.create(CONFIG);
    expect(() => core.apply(new Uint8Array(2 ** 28))).toThrow(
      expect.objectContaining({ code: 'message_too_large' }),
    );
    expect(() => core.commit(new Uint8Array(2 ** 28))).toThrow(
      expect.objectContaining({ code: 'message_too_large' }),
    );
    core.apply(encodeCommand(1, { type: 'resumeGeneration' }));
  });
});
