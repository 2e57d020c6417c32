import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Tokenizer } from '../../dist/tokenizer/index.js';
import { writeTinyTokenizer } from '../support/tiny_tokenizer.js';

let directory = '';

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'kadenz-tokenizer-'));
});

afterEach(() => rm(directory, { recursive: true }));

describe('a tokenizer', () => {
  it('encodes a text with what it adds by itself, and decodes it back without special tokens', async () => {
    await writeTinyTokenizer(directory);
    const tokenizer = await Tokenizer.load(directory);
    const ids = tokenizer.encode('the cat, 12 + 3?');
    expect(ids[0]).toBe(0);
    expect(tokenizer.decode(ids)).toBe('the cat, 12 + 3?');
  });

  it('passes over ids that it does not know: a vocabulary may be padded', async () => {
    await writeTinyTokenizer(directory);
    const tokenizer = await Tokenizer.load(directory);
    const ids = [...tokenizer.encode('hi'), 4_000_000];
    expect(tokenizer.decode(ids)).toBe('hi');
    expect(tokenizer.decode([4_000_000])).toBe('');
    expect(tokenizer.decode([])).toBe('');
  });

  it('encodes a conversation by the template, with special tokens as single ids and none added', async () => {
    await writeTinyTokenizer(directory);
    const tokenizer = await Tokenizer.load(directory);
    const ids = tokenizer.encodeChat([{ role: 'user', content: 'the end' }]);
    expect(ids.filter((id) => id === 0)).toHaveLength(2);
    expect(ids.filter((id) => id === 1)).toHaveLength(1);
    expect(tokenizer.decode(ids)).toBe('user\nthe end\nassistant\n');
  });

  it('prefers the template of chat_template.jinja', async () => {
    await writeTinyTokenizer(directory);
    await writeFile(join(directory, 'chat_template.jinja'), '{{ messages[0].content }}!');
    const tokenizer = await Tokenizer.load(directory);
    expect(tokenizer.decode(tokenizer.encodeChat([{ role: 'user', content: 'hi' }]))).toBe('hi!');
  });

  it('says so when there is no tokenizer, no template, or nothing that can be read', async () => {
    await expect(Tokenizer.load(directory)).rejects.toMatchObject({ code: 'tokenizer_missing' });
    await writeTinyTokenizer(directory, { template: null });
    const tokenizer = await Tokenizer.load(directory);
    expect(() => tokenizer.encodeChat([{ role: 'user', content: 'hi' }])).toThrowError(
      expect.objectContaining({ code: 'invalid_chat_template' }),
    );
    for (const broken of ['{"model":', '[]', '{}', 'null']) {
      await writeFile(join(directory, 'tokenizer.json'), broken);
      await expect(Tokenizer.load(directory), broken).rejects.toMatchObject({ code: 'invalid_tokenizer' });
    }
  });
});
