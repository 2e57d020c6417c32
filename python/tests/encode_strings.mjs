// Encodes and decodes strings with @huggingface/tokenizers, for test_tokenizers.py to compare with Python.
// Standard input: {"folder", "strings"}; standard output: [{"ids", "text"}].

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Tokenizer } from '@huggingface/tokenizers';

const { folder, strings } = JSON.parse(readFileSync(0, 'utf8'));
const readJson = (name) => JSON.parse(readFileSync(join(folder, name), 'utf8'));
const tokenizer = new Tokenizer(readJson('tokenizer.json'), readJson('tokenizer_config.json'));
const results = strings.map((string) => {
  const { ids } = tokenizer.encode(string);
  return {
    ids,
    text: tokenizer.decode(ids, { skip_special_tokens: false, clean_up_tokenization_spaces: false }),
  };
});
process.stdout.write(JSON.stringify(results));
