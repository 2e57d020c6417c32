// Text to token ids and back, from a model directory's tokenizer.json, and chat messages through its template. Optional: an engine that
// is given token ids never loads this, and the libraries behind it are imported on first use.

import { existsSync } from 'node:fs';
import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { KadenzError } from '../errors.js';
import type { ChatMessage, ChatTemplate } from './chat_template.js';

type ChatTemplateClass = typeof import('./chat_template.js').ChatTemplate;
type HuggingFaceTokenizer = import('@huggingface/tokenizers').Tokenizer;

const FILE_BYTES_MAX = 256 * 1024 * 1024;
const SPECIAL_TOKEN_NAMES = [
  'bos_token',
  'eos_token',
  'unk_token',
  'pad_token',
  'sep_token',
  'cls_token',
  'mask_token',
];

export class Tokenizer {
  readonly #tokenizer: HuggingFaceTokenizer;
  readonly #chatTemplate: ChatTemplateClass;
  readonly #cleanUpSpaces: boolean;
  readonly #templateSource: string | null;
  readonly #specialTokens: Record<string, string>;
  #template: ChatTemplate | null = null;

  /** Whether a model directory brings a tokenizer. */
  static isIn(directory: string): boolean {
    return existsSync(join(directory, 'tokenizer.json'));
  }

  /** Reads tokenizer.json, tokenizer_config.json and chat_template.jinja (the last two if they are there). */
  static async load(directory: string): Promise<Tokenizer> {
    if (!Tokenizer.isIn(directory)) {
      const sentence = `${directory} has no tokenizer.json, which prompts and messages need; give promptTokenIds instead.`;
      throw new KadenzError('tokenizer_missing', sentence, { path: directory });
    }
    const definition = await readJson(join(directory, 'tokenizer.json'));
    const config = (await readJson(join(directory, 'tokenizer_config.json'))) ?? {};
    const templateFile = await readText(join(directory, 'chat_template.jinja'));
    const { Tokenizer: Implementation } = await import('@huggingface/tokenizers');
    const { ChatTemplate } = await import('./chat_template.js');
    try {
      return new Tokenizer(new Implementation(definition!, config), config, templateFile, ChatTemplate);
    } catch (error) {
      throw invalid(join(directory, 'tokenizer.json'), error);
    }
  }

  private constructor(
    tokenizer: HuggingFaceTokenizer,
    config: Record<string, unknown>,
    templateFile: string | null,
    chatTemplate: ChatTemplateClass,
  ) {
    this.#chatTemplate = chatTemplate;
    this.#tokenizer = tokenizer;
    this.#cleanUpSpaces = config.clean_up_tokenization_spaces === true;
    this.#templateSource = templateFile ?? templateOf(config.chat_template);
    this.#specialTokens = specialTokensOf(config);
  }

  /** Token ids of a plain text, with what the tokenizer adds by itself (a BOS, say). */
  encode(text: string): Int32Array {
    return Int32Array.from(this.#encode(text, true));
  }

  /** Token ids of a conversation; all special tokens come from the template. */
  encodeChat(messages: readonly ChatMessage[]): Int32Array {
    if (this.#templateSource === null) {
      const sentence =
        'This model has no chat template; give a prompt or promptTokenIds instead of messages.';
      throw new KadenzError('invalid_chat_template', sentence);
    }
    this.#template ??= new this.#chatTemplate(this.#templateSource, this.#specialTokens);
    return Int32Array.from(this.#encode(this.#template.render(messages), false));
  }

  /** The text of token ids, without special tokens. Ids that the tokenizer does not know (padding of the vocabulary) give nothing. */
  decode(tokenIds: ArrayLike<number>): string {
    const known = Array.from(tokenIds).filter((id) => this.#tokenizer.id_to_token(id) !== undefined);
    if (known.length === 0) return '';
    return this.#tokenizer.decode(known, {
      skip_special_tokens: true,
      clean_up_tokenization_spaces: this.#cleanUpSpaces,
    });
  }

  #encode(text: string, addSpecialTokens: boolean): number[] {
    return this.#tokenizer.encode(text, { add_special_tokens: addSpecialTokens }).ids;
  }
}

/** `chat_template` is the template, or a list of named ones, of which 'default' is meant. */
function templateOf(entry: unknown): string | null {
  if (typeof entry === 'string') return entry;
  if (!Array.isArray(entry)) return null;
  const named = entry.find((item) => item?.name === 'default' && typeof item.template === 'string');
  return named === undefined ? null : (named.template as string);
}

/** Special tokens are strings or objects with the string as `content`. */
function specialTokensOf(config: Record<string, unknown>): Record<string, string> {
  const tokens: Record<string, string> = {};
  for (const name of SPECIAL_TOKEN_NAMES) {
    const entry = config[name];
    const content =
      typeof entry === 'object' && entry !== null ? (entry as { content?: unknown }).content : entry;
    if (typeof content === 'string') tokens[name] = content;
  }
  return tokens;
}

async function readJson(path: string): Promise<Record<string, unknown> | null> {
  const text = await readText(path);
  if (text === null) return null;
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value !== 'object' || value === null || Array.isArray(value))
      throw new Error('it is not a JSON object');
    return value as Record<string, unknown>;
  } catch (error) {
    throw invalid(path, error);
  }
}

async function readText(path: string): Promise<string | null> {
  if (!existsSync(path)) return null;
  const { size } = await stat(path);
  if (size > FILE_BYTES_MAX)
    throw invalid(path, new Error(`it has ${size} bytes; at most ${FILE_BYTES_MAX} are read`));
  return readFile(path, 'utf8');
}

function invalid(path: string, error: unknown): KadenzError {
  const reason = error instanceof Error ? error.message : String(error);
  return new KadenzError('invalid_tokenizer', `${path} can't be used: ${reason}.`, { path, cause: error });
}
