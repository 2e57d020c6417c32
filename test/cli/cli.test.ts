import type { ChildProcess } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { runCli } from '../support/run_cli.js';
import { writeTinyModel } from '../support/tiny_model.js';
import { writeTinyTokenizer } from '../support/tiny_tokenizer.js';

let directory = '';
let model = '';
let plainModel = '';

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'kadenz-cli-'));
  model = await mkdtemp(join(directory, 'model-'));
  plainModel = await mkdtemp(join(directory, 'plain-'));
  for (const path of [model, plainModel])
    await writeTinyModel(path, { architecture: 'Qwen3ForCausalLM', seed: 2 });
  await writeTinyTokenizer(model);
});

afterAll(() => rm(directory, { recursive: true }));

const jsonl = (lines: unknown[]) =>
  lines.map((line) => (typeof line === 'string' ? line : JSON.stringify(line))).join('\n');

async function inputFile(name: string, lines: unknown[]): Promise<string> {
  const path = join(directory, name);
  await writeFile(path, jsonl(lines));
  return path;
}

const generate = (...parameters: string[]) => ['generate', '--model', model, '--threads', '1', ...parameters];

describe('kadenz generate', () => {
  it('writes results in the order of the input, each with what the issue of a sample is', async () => {
    // The first is by far the longest, so the others end before it.
    const prompts = await inputFile('order.jsonl', [
      { id: 'long', prompt_token_ids: [5, 6, 7], sampling: { max_tokens: 60 } },
      { prompt: 'the cat', answer: 'a field of the user' },
      '',
      { id: 3, messages: [{ role: 'user', content: 'hi' }], sampling: { n: 2, temperature: 0 } },
    ]);
    const run = await runCli(generate('--prompts', prompts, '--max-tokens', '4', '--ignore-eos'));
    expect(run.exitCode).toBe(0);
    expect(run.lines.map(({ id }) => id)).toEqual(['long', 2, 3]);
    const [long, , chat] = run.lines as unknown as {
      samples: Record<string, unknown>[];
      cached_tokens: number;
    }[];
    expect(Object.keys(long!)).toEqual(['id', 'prompt_token_ids', 'samples', 'cached_tokens']);
    const [sample] = long!.samples;
    expect(Object.keys(sample!)).toEqual([
      ...['index', 'token_ids', 'text', 'logprobs', 'finish_reason', 'stop_reason', 'weight_versions'],
    ]);
    expect(sample!.token_ids).toHaveLength(60);
    expect(sample!.logprobs).toHaveLength(60);
    expect(sample!.weight_versions).toEqual(new Array(60).fill(0));
    expect(sample!.text).toEqual(expect.any(String));
    expect(chat!.samples.map(({ index }) => index)).toEqual([0, 1]);
    expect(chat!.samples[1]!.token_ids).toEqual(chat!.samples[0]!.token_ids);
  });

  it('puts an error with the line number in the place of a bad line, goes on, and exits with 1', async () => {
    const prompts = await inputFile('bad.jsonl', [
      { id: 'first', prompt_token_ids: [1, 2] },
      '{"prompt": ',
      '[1, 2]',
      { id: 'none' },
      { id: 'both', prompt: 'a', prompt_token_ids: [1] },
      { id: 'typo', prompt: 'a', sampling: { temperatur: 1 } },
      { id: 'empty', prompt_token_ids: [] },
      { id: 'cold', prompt: 'a', sampling: { temperature: -1 } },
      { id: 'many', prompt: 'a', sampling: { n: 1_000_000_000 } },
      { id: 'outside', prompt_token_ids: [1_000_000] },
      { id: 'last', prompt_token_ids: [1, 2] },
    ]);
    const run = await runCli(generate('--prompts', prompts, '--max-tokens', '3', '--ignore-eos'));
    expect(run.exitCode).toBe(1);
    const errors = run.lines.map(({ id, line, error }) => [
      id,
      line,
      (error as { code?: string } | undefined)?.code,
    ]);
    expect(errors).toEqual([
      ['first', undefined, undefined],
      [undefined, 2, 'invalid_input_line'],
      [undefined, 3, 'invalid_input_line'],
      ['none', 4, 'invalid_input_line'],
      ['both', 5, 'invalid_input_line'],
      ['typo', 6, 'invalid_input_line'],
      ['empty', 7, 'prompt_empty'],
      ['cold', 8, 'invalid_temperature'],
      ['many', 9, 'invalid_n'],
      ['outside', 10, 'prompt_token_out_of_range'],
      ['last', undefined, undefined],
    ]);
    expect((run.lines[1]!.error as unknown as { message: string }).message).toContain('Line 2');
  });

  it('samples by the number of the line: mending a line changes no other', async () => {
    const line = { prompt_token_ids: [3, 4, 5] };
    const broken = await inputFile('broken.jsonl', [line, '{', line]);
    const mended = await inputFile('mended.jsonl', [line, line, line]);
    const flags = ['--seed', '7', '--max-tokens', '12', '--ignore-eos'];
    const [before, after] = [
      await runCli(generate('--prompts', broken, ...flags)),
      await runCli(generate('--prompts', mended, ...flags)),
    ];
    expect(before.lines[0]).toEqual(after.lines[0]);
    expect(before.lines[2]).toEqual({ ...after.lines[2], cached_tokens: before.lines[2]!.cached_tokens });
    expect(after.lines[1]!.samples).not.toEqual(after.lines[0]!.samples);
  });

  it('takes one prompt as a flag, or lines from standard input, and writes data only to standard output', async () => {
    const one = await runCli(generate('--prompt', 'the dog', '--n', '3', '--log-level', 'info'));
    expect(one.exitCode).toBe(0);
    expect(one.stdout.trim().split('\n')).toHaveLength(1);
    expect(one.lines[0]!.samples).toHaveLength(3);
    expect(one.stderr).toContain('prompts done');
    const piped = await runCli(generate('--prompts', '-'), {
      input: '{"prompt_token_ids":[1]}\n{"prompt_token_ids":[2]}',
    });
    expect(piped.lines.map(({ id }) => id)).toEqual([1, 2]);
  });

  it('prints the most likely tokens and those of the prompt where they are asked for', async () => {
    const run = await runCli(
      generate(
        '--prompt',
        'ab',
        '--logprobs',
        '2',
        '--prompt-logprobs',
        '1',
        '--max-tokens',
        '3',
        '--ignore-eos',
      ),
    );
    const {
      samples,
      prompt_logprobs: promptLogprobs,
      prompt_top_logprobs: promptTop,
    } = run.lines[0]! as never as {
      samples: { logprobs: number[]; top_logprobs: { token_ids: number[]; logprobs: number[] }[] }[];
      prompt_logprobs: (number | null)[];
      prompt_top_logprobs: (object | null)[];
    };
    expect(samples[0]!.top_logprobs.map((top) => [top.token_ids.length, top.logprobs.length])).toEqual(
      new Array(3).fill([2, 2]),
    );
    expect(promptLogprobs[0]).toBeNull();
    expect(promptLogprobs.slice(1).every((value) => typeof value === 'number' && value <= 0)).toBe(true);
    expect(promptTop).toHaveLength(promptLogprobs.length);
    expect(promptTop[0]).toBeNull();
    const none = await runCli(generate('--prompt', 'ab', '--logprobs', '-1'));
    expect((none.lines[0]!.samples as never as { logprobs: unknown }[])[0]!.logprobs).toBeNull();
  });

  it('writes to --output, and nothing to standard output', async () => {
    const output = join(directory, 'out.jsonl');
    const run = await runCli(generate('--prompt', 'a', '--output', output));
    expect(run).toMatchObject({ exitCode: 0, stdout: '' });
    expect(JSON.parse(await readFile(output, 'utf8'))).toMatchObject({ id: 1 });
  });

  it('works with a model that has no tokenizer, from token ids to token ids', async () => {
    const lines = [{ prompt_token_ids: [1, 2] }, { prompt: 'text' }];
    const prompts = await inputFile('plain.jsonl', lines);
    const run = await runCli(['generate', '--model', plainModel, '--prompts', prompts]);
    expect(run.exitCode).toBe(1);
    expect((run.lines[0]!.samples as never as { text: unknown }[])[0]!.text).toBeNull();
    expect(run.lines[1]!.error).toMatchObject({ code: 'tokenizer_missing' });
  });
});

describe('kadenz score', () => {
  it('gives, bit for bit, the log-probs that generate gave', async () => {
    const generated = await runCli(
      generate('--prompt', 'the quick', '--max-tokens', '30', '--ignore-eos', '--seed', '3'),
    );
    const { prompt_token_ids: prompt, samples } = generated.lines[0]! as never as {
      prompt_token_ids: number[];
      samples: { token_ids: number[]; logprobs: number[] }[];
    };
    const sequences = await inputFile('sequences.jsonl', [
      { id: 'whole', token_ids: [...prompt, ...samples[0]!.token_ids] },
      { id: 'text', text: 'the quick' },
      { id: 'bad', token_ids: 'x' },
    ]);
    const run = await runCli(['score', '--model', model, '--sequences', sequences]);
    expect(run.exitCode).toBe(1);
    const [whole, text, bad] = run.lines as never as {
      logprobs: (number | null)[];
      token_ids: number[];
      error: object;
    }[];
    expect(whole!.logprobs[0]).toBeNull();
    expect(whole!.logprobs.slice(prompt.length)).toEqual(samples[0]!.logprobs);
    expect(text!.token_ids).toEqual(prompt);
    expect(bad!.error).toMatchObject({ code: 'invalid_input_line' });
  });
});

describe('what can go wrong around it', () => {
  /** For the first piece of output only. */
  const once = (act: (child: ChildProcess) => void) => {
    let isFirst = true;
    return (child: ChildProcess) => {
      if (isFirst) act(child);
      isFirst = false;
    };
  };
  const noStack = expect.not.stringMatching(/\n\s+at /);

  it.each([
    ['the model directory is absent', ['--model', '/nowhere/at/all', '--prompt', 'a'], 'model_not_found'],
    ['the prompts are absent', ['--model', '@model', '--prompts', '/nowhere.jsonl'], 'input_not_found'],
    ['there are two inputs', ['--model', '@model', '--prompt', 'a', '--prompts', 'b'], 'invalid_argument'],
    [
      'the output cannot be opened',
      ['--model', '@model', '--prompt', 'a', '--output', '/nowhere/at/all'],
      'output_failed',
    ],
  ])('says why and exits with 1 when %s', async (_, parameters, code) => {
    const run = await runCli(['generate', ...parameters.map((text) => text.replace('@model', model))]);
    expect(run).toMatchObject({ exitCode: 1, stdout: '', stderr: noStack });
    expect(run.stderr).toContain(`(${code})`);
  });

  it.skipIf(!existsSync('/dev/full'))('exits with 1 and a sentence when the disk is full', async () => {
    const run = await runCli(generate('--prompt', 'a', '--output', '/dev/full'));
    expect(run).toMatchObject({ exitCode: 1, stderr: noStack });
    expect(run.stderr).toContain('(output_failed)');
    expect(run.stderr).toContain('ENOSPC');
  });

  it('exits with 1 when its reader goes away', async () => {
    const line = { prompt_token_ids: [1, 2], sampling: { max_tokens: 50, n: 8 } };
    const prompts = await inputFile('many.jsonl', new Array(500).fill(line));
    const run = await runCli(generate('--prompts', prompts, '--ignore-eos', '--max-num-seqs', '16'), {
      onOutput: (child) => child.stdout!.destroy(),
    });
    expect(run).toMatchObject({ exitCode: 1, stderr: noStack });
    expect(run.stderr).toContain('(output_failed)');
  });

  it('ends on an interrupt with whole lines of what is finished, and 130', async () => {
    const line = { prompt_token_ids: [1, 2], sampling: { max_tokens: 100 } };
    const prompts = await inputFile('endless.jsonl', new Array(3000).fill(line));
    const run = await runCli(generate('--prompts', prompts, '--ignore-eos', '--max-num-seqs', '2'), {
      onOutput: once((child) => child.kill('SIGINT')),
    });
    expect(run.exitCode).toBe(130);
    expect(run.stdout).toMatch(/\n$/);
    expect(run.lines.length).toBeGreaterThan(0);
    expect(run.lines.length).toBeLessThan(3000);
    for (const { samples } of run.lines as never as { samples: { token_ids: number[] }[] }[]) {
      expect(samples[0]!.token_ids).toHaveLength(100);
    }
  });

  it('refuses flags that it does not know, and values that are no numbers', async () => {
    for (const flags of [
      ['--temprature', '1'],
      ['--n', 'many'],
      ['--seed', '-1'],
      ['--stop-token-ids', 'a,b'],
    ]) {
      const run = await runCli(generate('--prompt', 'a', ...flags));
      expect(run, flags[0]).toMatchObject({ exitCode: 1, stdout: '' });
    }
  });

  it('tells its version and its flags', async () => {
    const { version } = JSON.parse(await readFile(new URL('../../package.json', import.meta.url), 'utf8'));
    expect((await runCli(['--version'])).stdout.trim()).toBe(version);
    const help = await runCli(['generate', '--help']);
    for (const flag of [
      '--prompts',
      '--n ',
      '--seed',
      '--kv-cache-blocks',
      '--no-prefix-cache',
      'Examples:',
    ]) {
      expect(help.stdout).toContain(flag);
    }
  });
});
