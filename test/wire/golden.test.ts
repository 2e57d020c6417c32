import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { encodeCommand, encodeConfigure } from '../../src/core/commands.js';
import { resolveCoreConfig } from '../../src/core/config.js';
import { decodeInstruction } from '../../src/core/instructions.js';
import { decodeOutput, decodeStats } from '../../src/core/outputs.js';
import { decodeResult, encodeResult } from '../../src/core/results.js';
import { Work } from '../../src/generated/index.js';
import { CppReader } from './cpp_reader.js';
import { dumpInstruction, dumpResult } from './dump.js';
import {
  EXAMPLE_COMMANDS,
  EXAMPLE_CONFIG,
  EXAMPLE_CONFIG_WORDS,
  EXAMPLE_RESULT,
  EXAMPLE_RESULT_WORDS,
} from './examples.js';
import { expectGolden } from './golden.js';
import { WireModule } from './wire_module.js';

let assembly: WireModule;
let cpp: CppReader;

beforeAll(async () => {
  assembly = await WireModule.compile();
  cpp = new CppReader();
});
afterAll(() => cpp.close());

describe('a command, written in TypeScript', () => {
  it('carries the configuration to AssemblyScript', () => {
    const bytes = encodeConfigure(0, resolveCoreConfig(EXAMPLE_CONFIG));
    expectGolden('command_configure', bytes);
    expect(assembly.verify('command', bytes)).toBe(true);
    expect(assembly.read('command', bytes)).toEqual(EXAMPLE_CONFIG_WORDS.map(BigInt));
    expect(cpp.verify('command', [bytes])).toEqual([true]);
  });

  for (const { name, command, words } of EXAMPLE_COMMANDS) {
    it(`carries ${name} to AssemblyScript, each field as it was given`, () => {
      const bytes = encodeCommand(7, command);
      expectGolden(`command_${name}`, bytes);
      expect(assembly.verify('command', bytes)).toBe(true);
      expect(assembly.read('command', bytes)).toEqual([7, ...words].map(BigInt));
      expect(cpp.verify('command', [bytes])).toEqual([true]);
    });
  }
});

describe('an instruction, written in AssemblyScript', () => {
  it('carries every column of a step plan to C++ and TypeScript alike', () => {
    const bytes = assembly.writeStepPlan(3);
    expectGolden('instruction_step_plan', bytes);
    const dumped = cpp.dump('instruction', bytes);
    expect(dumped).toBe(dumpInstruction(bytes));
    expect(dumped).toContain(
      'step 4294967297\nweight_version 7\nwork StepPlan\nopen_slot 4 1000 1001 1002 1003\n',
    );
    expect(dumped).toContain(
      'open_params 5 18446744073709551615 1056964608 1065353216 0 0 0 0 0 16 0 -1 0 0 1 ',
    );
    expect(dumped).toMatch(
      /score_slot 4 25000 25001 25002 25003\nscore_token 5 26000 26001 26002 26003 26004\n$/,
    );
  });

  it('may have empty columns', () => {
    const bytes = assembly.writeStepPlan(0);
    expectGolden('instruction_empty_columns', bytes);
    expect(cpp.dump('instruction', bytes)).toBe(dumpInstruction(bytes));
    expect(dumpInstruction(bytes)).toContain('\nopen_prompt_tokens 0\nopen_adapter 1 4000\n');
  });

  const controls: [Work, object][] = [
    [Work.BeginWeightUpdate, { type: 'beginWeightUpdate' }],
    [Work.FinishWeightUpdate, { type: 'finishWeightUpdate', version: 0xffff_ffff_ffff, succeeded: true }],
    [Work.ReleaseMemory, { type: 'releaseMemory', tags: ['kv_cache', 'weights'], abortRunning: true }],
    [Work.ResumeMemory, { type: 'resumeMemory', tags: ['kv_cache'] }],
    [Work.LoadAdapter, { type: 'loadAdapter', adapter: 5, name: 'a', path: './abcde' }],
    [Work.UnloadAdapter, { type: 'unloadAdapter', adapter: 5 }],
    [
      Work.SetParallelGroups,
      {
        type: 'setParallelGroups',
        tensorParallelSize: 2,
        pipelineParallelSize: 3,
        dataParallelSize: 4,
        rank: 1,
      },
    ],
    [Work.Shutdown, { type: 'shutdown' }],
  ];
  for (const [type, content] of controls) {
    it(`carries ${Work[type]} to C++ and TypeScript`, () => {
      const bytes = assembly.writeControl(type);
      expectGolden(`instruction_${Work[type]!.replace(/(?<!^)([A-Z])/g, '_$1').toLowerCase()}`, bytes);
      expect(cpp.dump('instruction', bytes)).toBe(dumpInstruction(bytes));
      expect(decodeInstruction(bytes)).toEqual({ step: type, weightVersion: 3, ...content });
    });
  }
});

describe('an output, written in AssemblyScript', () => {
  it('carries every column to TypeScript', () => {
    const bytes = assembly.writeOutput(2);
    expectGolden('output', bytes);
    expect(cpp.verify('output', [bytes])).toEqual([true]);
    const wide = (column: number, i: number) => column * 2 ** 40 + i;
    const second = {
      token: { request: wide(1, 1), sample: 2001, row: 3001, tokenId: 4001 },
      score: { request: wide(5, 1), position: 6001, first: 7001, count: 8001 },
      start: { request: wide(18, 1), cachedTokens: 19_001 },
      ack: { command: wide(20, 1), code: 'nan_logits', value: wide(22, 1), limit: wide(23, 1) },
    };
    const output = decodeOutput(bytes);
    expect(output).toMatchObject({ step: 9, weightVersion: 2n ** 64n - 1n });
    expect([output.tokens[1], output.scores[1], output.starts[1], output.acks[1]]).toEqual([
      ...[second.token, second.score, second.start, second.ack],
    ]);
    expect(output.finishes).toEqual(
      [0, 1].map((i) => ({
        request: wide(9, i),
        sample: 10_000 + i,
        count: 11_000 + i,
        reason: ['stop', 'error'][i],
        stopToken: [13_000, null][i],
        code: ['none', 'nan_logits'][i],
        value: wide(15, i),
        limit: wide(16, i),
        preemptions: 17_000 + i,
      })),
    );
    expect([output.tokens, output.scores, output.starts, output.acks].map(({ length }) => length)).toEqual([
      2, 2, 2, 2,
    ]);
  });

  it('carries the statistics', () => {
    const bytes = assembly.writeStats();
    expectGolden('stats', bytes);
    expect(cpp.verify('stats', [bytes])).toEqual([true]);
    expect(decodeStats(bytes)).toEqual({
      ...{ step: 1, numStepsInFlight: 2, numRunning: 3, numWaiting: 4, numRequests: 5, numBlocks: 6 },
      ...{ numFreeBlocks: 7, numCachedBlocks: 8, numHeldBlocks: 9, numPreemptions: 10, promptTokens: 11 },
      ...{ cachedPromptTokens: 12, computedTokens: 13, generationTokens: 14, finishedSamples: 15 },
      ...{
        weightVersion: 16,
        paused: true,
        updatingWeights: false,
        weightsUsable: true,
        released: ['weights'],
      },
      ...{ shutDown: false, tokenHeapBytes: 17, tokenHeapUsedBytes: 18, digest: 0xdead_beef_cafe_f00dn },
    });
  });
});

describe('a result', () => {
  it('written in C++ is read by AssemblyScript and TypeScript as it was meant', () => {
    const bytes = cpp.writeResult();
    expectGolden('result_cpp', bytes);
    expect(assembly.verify('result', bytes)).toBe(true);
    expect(assembly.read('result', bytes)).toEqual(EXAMPLE_RESULT_WORDS.map(BigInt));
    expect(decodeResult(bytes)).toEqual(EXAMPLE_RESULT);
  });

  it('written in TypeScript is read by AssemblyScript, C++ and TypeScript as it was meant', () => {
    const bytes = encodeResult(EXAMPLE_RESULT);
    expectGolden('result_ts', bytes);
    expect(assembly.verify('result', bytes)).toBe(true);
    expect(assembly.read('result', bytes)).toEqual(EXAMPLE_RESULT_WORDS.map(BigInt));
    expect(cpp.dump('result', bytes)).toBe(cpp.dump('result', cpp.writeResult()));
    expect(cpp.dump('result', bytes)).toBe(dumpResult(bytes));
    expect(decodeResult(bytes)).toEqual(EXAMPLE_RESULT);
  });
});
