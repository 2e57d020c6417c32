// A small but real tokenizer for tests: byte-level BPE over lower-case ASCII with a merge or two, a BOS, and a ChatML-like template.

import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';

const CHARACTERS = 'abcdefghijklmnopqrstuvwxyz0123456789.,?!+=<>|_:\n-';
const SPECIAL = ['<|start|>', '<|end|>'];

/** Byte-level BPE writes a space as Ġ and a line feed as Ċ. */
const symbolOf = (character: string) => (character === '\n' ? 'Ċ' : character);

export const TEMPLATE =
  "{% for message in messages %}{{ '<|start|>' + message['role'] + '\n' + message['content'] + '<|end|>' + '\n' }}{% endfor %}" +
  "{% if add_generation_prompt %}{{ '<|start|>assistant\n' }}{% endif %}";

/** Writes tokenizer.json and tokenizer_config.json; ids stay below 64. */
export async function writeTinyTokenizer(
  directory: string,
  { template = TEMPLATE as string | null } = {},
): Promise<void> {
  const tokens = [...SPECIAL, 'Ġ', ...[...CHARACTERS].map(symbolOf), 'th', 'the'];
  const vocab = Object.fromEntries(tokens.map((token, id) => [token, id]));
  const byteLevel = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true };
  const definition = {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: SPECIAL.map((content, id) => {
      return {
        id,
        content,
        single_word: false,
        lstrip: false,
        rstrip: false,
        normalized: false,
        special: true,
      };
    }),
    normalizer: null,
    pre_tokenizer: byteLevel,
    post_processor: {
      type: 'TemplateProcessing',
      single: [{ SpecialToken: { id: SPECIAL[0], type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }],
      pair: [],
      special_tokens: { [SPECIAL[0]!]: { id: SPECIAL[0], ids: [0], tokens: [SPECIAL[0]] } },
    },
    decoder: byteLevel,
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: null,
      vocab,
      merges: [
        ['t', 'h'],
        ['th', 'e'],
      ],
      byte_fallback: false,
    },
  };
  const config = {
    bos_token: SPECIAL[0],
    eos_token: { content: SPECIAL[1], lstrip: false, rstrip: false },
    ...(template === null ? {} : { chat_template: template }),
  };
  await writeFile(join(directory, 'tokenizer.json'), JSON.stringify(definition));
  await writeFile(join(directory, 'tokenizer_config.json'), JSON.stringify(config));
}
