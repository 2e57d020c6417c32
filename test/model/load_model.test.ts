// Model directories, good and hostile.

import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { expectedTensors, loadModel } from '../../src/model/index.js';
import { type NamedTensor, safetensorsBytes, safetensorsOf, writeTinyModel } from '../support/tiny_model.js';

let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'kadenz-model-'));
});
afterEach(() => rmSync(directory, { recursive: true }));

const write = (name: string, content: string | Uint8Array) => writeFileSync(join(directory, name), content);
const failure = (code: string, sentence: RegExp) =>
  expect.objectContaining({ name: 'KadenzError', code, message: expect.stringMatching(sentence) });

describe('a model directory', () => {
  for (const architecture of [
    'LlamaForCausalLM',
    'MistralForCausalLM',
    'Qwen2ForCausalLM',
    'Qwen3ForCausalLM',
  ] as const) {
    it(`of ${architecture} is loaded: all tensors, in the model's order, at their bytes`, () => {
      const { tensors } = writeTinyModel(directory, { architecture, dtype: 'BF16' });
      const model = loadModel(directory);
      expect(model.config.architecture).toBe(architecture);
      expect(model.tensors.map(({ name }) => name)).toEqual([...expectedTensors(model.config).keys()]);
      const bytes = readFileSync(model.files[0]!);
      for (const { name, dtype, shape, beginBytes, endBytes } of model.tensors) {
        const written = tensors.find((tensor) => tensor.name === name)!;
        expect({ dtype, shape }).toEqual({ dtype: written.dtype, shape: written.shape });
        expect(bytes.subarray(beginBytes, endBytes).equals(written.bytes)).toBe(true);
      }
    });
  }

  it('in shards is loaded from the files that its index names', () => {
    writeTinyModel(directory, { numShards: 3 });
    const model = loadModel(directory);
    expect(model.files).toHaveLength(3);
    expect(new Set(model.tensors.map(({ file }) => file))).toEqual(new Set([0, 1, 2]));
  });

  it('may carry a rotary table, and an output head although its embeddings are tied', () => {
    const { tensors } = writeTinyModel(directory, { tieWordEmbeddings: true });
    const extra = [
      {
        name: 'model.layers.0.self_attn.rotary_emb.inv_freq',
        dtype: 'F32',
        shape: [4],
        bytes: new Uint8Array(16),
      },
      { name: 'lm_head.weight', dtype: 'F32', shape: [1], bytes: new Uint8Array(4) },
    ] satisfies NamedTensor[];
    write('model.safetensors', safetensorsBytes([...tensors, ...extra]));
    expect(loadModel(directory).tensors.map(({ name }) => name)).not.toContain('lm_head.weight');
  });

  it('ends sequences with the ids of generation_config.json, else of config.json', () => {
    writeTinyModel(directory, { eosTokenId: [3, 4, 3] });
    expect(loadModel(directory).eosTokenIds).toEqual([3, 4]);
    write('generation_config.json', '{"eos_token_id": 7}');
    expect(loadModel(directory).eosTokenIds).toEqual([7]);
    write('generation_config.json', '{"temperature": 0.6}');
    expect(loadModel(directory).eosTokenIds).toEqual([3, 4]);
    writeTinyModel(directory, { eosTokenId: null });
    expect(loadModel(directory).eosTokenIds).toEqual([]);
    write('generation_config.json', '{"eos_token_id": [97]}');
    expect(() => loadModel(directory)).toThrow(
      failure('invalid_model_config', /eos_token_id holds 97.*0 to 96/),
    );
  });

  it('has a fingerprint of its shape that does not depend on where it lies', () => {
    writeTinyModel(directory);
    const { fingerprint } = loadModel(directory);
    writeTinyModel(join(directory, 'again'));
    expect(loadModel(join(directory, 'again')).fingerprint).toBe(fingerprint);
    writeTinyModel(join(directory, 'other'), { numLayers: 3 });
    expect(loadModel(join(directory, 'other')).fingerprint).not.toBe(fingerprint);
    expect(fingerprint).toMatch(/^[0-9a-f]{64}$/);
  });

  it('that is absent, a file, or empty is not found', () => {
    expect(() => loadModel(join(directory, 'nowhere'))).toThrow(failure('model_not_found', /nowhere/));
    write('file', '');
    expect(() => loadModel(join(directory, 'file'))).toThrow(failure('model_not_found', /file/));
    expect(() => loadModel(directory)).toThrow(failure('model_not_found', /config.json/));
    writeTinyModel(directory);
    rmSync(join(directory, 'model.safetensors'));
    expect(() => loadModel(directory)).toThrow(failure('model_not_found', /model.safetensors/));
  });

  it('whose config.json is no JSON, or says something twice, is refused', () => {
    writeTinyModel(directory);
    for (const [text, sentence] of [
      ['{"hidden_size": 32', /no valid JSON/],
      ['[1]', /not an object/],
      ['{"a": {"b": 1, "c": "}", "\\u0062": 2}}', /key 'b' twice/],
    ] as const) {
      write('config.json', text);
      expect(() => loadModel(directory)).toThrow(failure('invalid_model_config', sentence));
    }
    write('config.json', new Uint8Array([0x7b, 0xff, 0x7d]));
    expect(() => loadModel(directory)).toThrow(failure('invalid_model_config', /no valid JSON/));
    rmSync(join(directory, 'config.json'));
    mkdirSync(join(directory, 'config.json'));
    expect(() => loadModel(directory)).toThrow(failure('file_unreadable', /config.json/));
  });

  it('that lacks tensors names them', () => {
    const { tensors } = writeTinyModel(directory, { numLayers: 4 });
    write('model.safetensors', safetensorsBytes(tensors.filter(({ name }) => name !== 'model.norm.weight')));
    expect(() => loadModel(directory)).toThrow(failure('missing_tensor', /lack model\.norm\.weight\./));
    write('model.safetensors', safetensorsBytes(tensors.filter(({ name }) => !name.includes('layers.2'))));
    expect(() => loadModel(directory)).toThrow(
      failure('missing_tensor', /layers\.2\.input_layernorm.* and 4 more\./),
    );
  });

  it('with weights that config.json has no place for, or with other shapes or dtypes, is refused', () => {
    const { tensors } = writeTinyModel(directory);
    const bias: NamedTensor = {
      name: 'model.layers.0.self_attn.q_proj.bias',
      dtype: 'F32',
      shape: [32],
      bytes: new Uint8Array(128),
    };
    write('model.safetensors', safetensorsBytes([...tensors, bias]));
    expect(() => loadModel(directory)).toThrow(failure('unexpected_tensor', /q_proj\.bias/));
    const [first, ...rest] = tensors;
    write('model.safetensors', safetensorsBytes([{ ...first!, shape: [32, 97] }, ...rest]));
    expect(() => loadModel(directory)).toThrow(
      failure('wrong_shape', /embed_tokens.*\[32, 97\].*\[97, 32\]/),
    );
    write('model.safetensors', safetensorsBytes([{ ...first!, dtype: 'I32' as 'F32' }, ...rest]));
    expect(() => loadModel(directory)).toThrow(failure('unsupported_dtype', /embed_tokens.*I32/));
  });
});

describe('a sharded index', () => {
  const index = (weightMap: unknown) =>
    write('model.safetensors.index.json', JSON.stringify({ weight_map: weightMap }));

  it('that leads out of its directory, or to no safetensors file, is refused', () => {
    writeTinyModel(directory, { numShards: 2 });
    for (const file of [
      '../model.safetensors',
      '/etc/passwd',
      'a/b.safetensors',
      'a\\b.safetensors',
      'weights.bin',
      5,
    ]) {
      index({ 'model.norm.weight': file });
      expect(() => loadModel(directory)).toThrow(failure('invalid_safetensors', /plain name/));
    }
    index([]);
    expect(() => loadModel(directory)).toThrow(failure('invalid_safetensors', /no weight_map/));
    index({ 'model.norm.weight': 'absent.safetensors' });
    expect(() => loadModel(directory)).toThrow(failure('file_unreadable', /absent\.safetensors/));
  });

  it('that promises a tensor where it is not, or finds one twice, is refused', () => {
    const { tensors } = writeTinyModel(directory, { numShards: 2 });
    rmSync(join(directory, 'model.safetensors'), { force: true });
    write('one.safetensors', safetensorsBytes(tensors));
    const all = Object.fromEntries(tensors.map(({ name }) => [name, 'one.safetensors']));
    index({ ...all, ghost: 'one.safetensors' });
    expect(() => loadModel(directory)).toThrow(failure('missing_tensor', /ghost/));
    write('two.safetensors', safetensorsBytes(tensors.slice(0, 1)));
    index({ ...all, 'model.embed_tokens.weight': 'two.safetensors' });
    expect(() => loadModel(directory)).toThrow(failure('duplicate_tensor', /embed_tokens/));
  });
});

describe('a safetensors file', () => {
  const entry = (fields: object) => ({ dtype: 'F32', shape: [2], data_offsets: [0, 8], ...fields });
  const file = (header: unknown, dataBytes = 8) =>
    safetensorsOf(JSON.stringify(header), new Uint8Array(dataBytes));
  const length = (value: bigint, rest: Uint8Array = new Uint8Array(16)) => {
    const bytes = Buffer.alloc(8);
    bytes.writeBigUInt64LE(value);
    return Buffer.concat([bytes, rest]);
  };
  const deep = `${'['.repeat(200_000)}${']'.repeat(200_000)}`;
  const hostile: [string, Uint8Array, string, RegExp][] = [
    ['nothing in it', new Uint8Array(0), 'invalid_safetensors', /0 bytes/],
    ['less than a length', new Uint8Array(7), 'invalid_safetensors', /7 bytes/],
    ['a header longer than the file', length(1000n), 'file_truncated', /1000 bytes, and 16 follow/],
    ['a header of 2^63 bytes', length(2n ** 63n), 'invalid_safetensors', /9223372036854775808/],
    ['a header of 2^64 - 8 bytes', length(2n ** 64n - 8n), 'invalid_safetensors', /100000000/],
    ['a header of no bytes', length(0n), 'invalid_safetensors', /no valid JSON/],
    [
      'a header that is no JSON',
      safetensorsOf('{"a": ', new Uint8Array(8)),
      'invalid_safetensors',
      /no valid JSON/,
    ],
    ['a header that is a list', file([]), 'invalid_safetensors', /not an object/],
    ['a header of brackets', safetensorsOf(deep, new Uint8Array(8)), 'invalid_safetensors', /JSON/],
    [
      'a tensor twice',
      safetensorsOf(
        '{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
        new Uint8Array(8),
      ),
      'invalid_safetensors',
      /key 'a' twice/,
    ],
    [
      'two shapes of one tensor',
      safetensorsOf('{"a":{"dtype":"F32","shape":[9],"shape":[2],"data_offsets":[0,8]}}', new Uint8Array(8)),
      'invalid_safetensors',
      /key 'shape' twice/,
    ],
    ['an entry that is a number', file({ a: 1 }), 'invalid_safetensors', /no object/],
    ['a tensor without dtype', file({ a: entry({ dtype: undefined }) }), 'invalid_safetensors', /no dtype/],
    ['a negative size', file({ a: entry({ shape: [-2] }) }), 'invalid_safetensors', /shape/],
    ['a size that is a fraction', file({ a: entry({ shape: [2.5] }) }), 'invalid_safetensors', /shape/],
    ['a size beyond 2^53', file({ a: entry({ shape: [2 ** 60] }) }), 'invalid_safetensors', /shape/],
    [
      'a shape whose size in bits is the right one modulo 2^64',
      file({ a: entry({ shape: [2, 2 ** 29 - 2 ** 15 + 1, 2 ** 29 + 2 ** 15 + 1] }) }),
      'invalid_safetensors',
      /can't have 8 bytes/,
    ],
    [
      'a shape of 17 dimensions',
      file({ a: entry({ shape: Array(17).fill(1) }) }),
      'invalid_safetensors',
      /shape/,
    ],
    [
      'a range of another length than its shape',
      file({ a: entry({ shape: [3] }) }),
      'invalid_safetensors',
      /can't have 8 bytes/,
    ],
    [
      'a range that runs backwards',
      file({ a: entry({ data_offsets: [8, 0] }) }),
      'invalid_safetensors',
      /before it begins/,
    ],
    [
      'a range of three numbers',
      file({ a: entry({ data_offsets: [0, 4, 8] }) }),
      'invalid_safetensors',
      /data_offsets/,
    ],
    [
      'a negative range',
      file({ a: entry({ data_offsets: [-8, 0] }) }),
      'invalid_safetensors',
      /data_offsets/,
    ],
    [
      'a tensor beyond its end',
      file({ a: entry({ shape: [4], data_offsets: [0, 16] }) }),
      'file_truncated',
      /byte 16 .* 8 bytes/,
    ],
    [
      'overlapping tensors',
      file({ a: entry({}), b: entry({ data_offsets: [4, 12] }) }, 12),
      'invalid_safetensors',
      /b overlaps/,
    ],
    ['two tensors in one place', file({ a: entry({}), b: entry({}) }), 'invalid_safetensors', /overlaps/],
    [
      'a gap between tensors',
      file({ a: entry({}), b: entry({ data_offsets: [12, 20] }) }, 20),
      'invalid_safetensors',
      /4 bytes before tensor b/,
    ],
    ['bytes behind the last tensor', file({ a: entry({}) }, 9), 'invalid_safetensors', /last 1 bytes/],
  ];
  for (const [name, bytes, code, sentence] of hostile) {
    it(`is refused with ${name}`, () => {
      writeTinyModel(directory);
      write('model.safetensors', bytes);
      expect(() => loadModel(directory)).toThrow(failure(code, sentence));
    });
  }

  it('cut off at any of its first bytes is refused with a code', () => {
    writeTinyModel(directory, { numLayers: 1 });
    const whole = readFileSync(join(directory, 'model.safetensors'));
    for (let end = 0; end < 4000; end += 7) {
      write('model.safetensors', whole.subarray(0, end));
      expect(() => loadModel(directory)).toThrow(expect.objectContaining({ name: 'KadenzError' }));
    }
  });

  it('may be a link, as in a download cache, and may hold empty tensors', () => {
    const { tensors } = writeTinyModel(directory, { tieWordEmbeddings: true });
    const empty: NamedTensor = {
      name: 'model.rotary_emb.inv_freq',
      dtype: 'F32',
      shape: [0],
      bytes: new Uint8Array(0),
    };
    write('blob', safetensorsBytes([empty, ...tensors]));
    rmSync(join(directory, 'model.safetensors'));
    symlinkSync(join(directory, 'blob'), join(directory, 'model.safetensors'));
    expect(loadModel(directory).tensors).toHaveLength(tensors.length);
  });

  it('that is a folder is refused', () => {
    writeTinyModel(directory);
    rmSync(join(directory, 'model.safetensors'));
    mkdirSync(join(directory, 'model.safetensors'));
    expect(() => loadModel(directory)).toThrow(failure('file_unreadable', /model\.safetensors/));
  });
});
