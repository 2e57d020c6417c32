// Renders a conversation with a model's own chat template (Jinja). A template comes from a model repository and is not trusted: it runs
// in an interpreter that reaches nothing but what it is given, and that stops after so many steps or so much text.
//
// There is no clock in it: `strftime_now` is left undefined, so templates that print today's date fall back to their fixed one, and
// a prompt depends on its messages alone.

import * as jinja from '@huggingface/jinja';
import { KadenzError } from '../errors.js';

/** The part of the library that is used here; its own declarations can't be resolved by Node's rules. */
interface JinjaValue {
  value: unknown;
}
interface JinjaEnvironment {
  set(name: string, value: unknown): unknown;
}
interface JinjaInterpreter {
  run(program: unknown): JinjaValue;
  evaluate(node: unknown, environment: JinjaEnvironment): JinjaValue;
}
interface Jinja {
  Environment: new () => JinjaEnvironment;
  Interpreter: new (environment: JinjaEnvironment) => JinjaInterpreter;
  tokenize(source: string, options: { lstrip_blocks: boolean; trim_blocks: boolean }): unknown;
  parse(tokens: unknown): unknown;
}
const { Environment, Interpreter, tokenize, parse } = jinja as unknown as Jinja;

/** One turn. Templates may read further fields, so they are let through. */
export interface ChatMessage {
  role: string;
  content: string | readonly unknown[] | null;
  [field: string]: unknown;
}

export interface RenderLimits {
  steps: number;
  /** Characters of any one string, and items of any one list. */
  length: number;
}

const DEFAULT_LIMITS: RenderLimits = { steps: 2_000_000, length: 8_000_000 };
const TEMPLATE_CHARACTERS_MAX = 1_000_000;

export class ChatTemplate {
  readonly #program: unknown;
  readonly #specialTokens: Readonly<Record<string, string>>;
  readonly #limits: RenderLimits;

  /** @param specialTokens bos_token, eos_token and their like, as the template names them */
  constructor(
    source: string,
    specialTokens: Readonly<Record<string, string>>,
    limits: RenderLimits = DEFAULT_LIMITS,
  ) {
    if (source.length > TEMPLATE_CHARACTERS_MAX) {
      const sentence = `The chat template has ${source.length} characters; at most ${TEMPLATE_CHARACTERS_MAX} are read.`;
      throw new KadenzError('invalid_chat_template', sentence, {
        value: source.length,
        limit: TEMPLATE_CHARACTERS_MAX,
      });
    }
    this.#specialTokens = specialTokens;
    this.#limits = limits;
    this.#program = explained(() => parse(tokenize(source, { lstrip_blocks: true, trim_blocks: true })));
  }

  /** The prompt's text, up to where the assistant is to speak. */
  render(messages: readonly ChatMessage[]): string {
    return explained(() => {
      const environment = new Environment();
      const variables: Record<string, unknown> = {
        ...{ true: true, false: false, none: null, True: true, False: false, None: null },
        ...this.#specialTokens,
        messages,
        add_generation_prompt: true,
        range: (start: number, stop?: number, step?: number) =>
          boundedRange(start, stop, step, this.#limits.length),
        raise_exception: (reason: unknown) => {
          throw new Error(String(reason));
        },
      };
      for (const [name, value] of Object.entries(variables)) environment.set(name, value);
      const rendered = new BoundedInterpreter(environment, this.#limits).run(this.#program);
      return String(rendered.value);
    });
  }
}

/** Counts each node that is evaluated and looks at the size of each value: no loop and no doubling gets far. */
class BoundedInterpreter extends Interpreter {
  readonly #limits: RenderLimits;
  #steps = 0;

  constructor(environment: JinjaEnvironment, limits: RenderLimits) {
    super(environment);
    this.#limits = limits;
  }

  override evaluate(node: unknown, environment: JinjaEnvironment): JinjaValue {
    this.#steps += 1;
    if (this.#steps > this.#limits.steps) throw new Error(`it takes more than ${this.#limits.steps} steps`);
    const result = super.evaluate(node, environment);
    const { value } = result;
    if ((typeof value === 'string' || Array.isArray(value)) && value.length > this.#limits.length) {
      throw new Error(
        `it makes a value of ${value.length} characters or items; at most ${this.#limits.length} are allowed`,
      );
    }
    return result;
  }
}

function boundedRange(
  first: number,
  second: number | undefined | null,
  step: number | undefined,
  most: number,
): number[] {
  const [start, stop] = second === undefined || second === null ? [0, first] : [first, second];
  const stride = step ?? 1;
  const length = Math.max(0, Math.ceil((stop - start) / stride));
  if (!Number.isSafeInteger(length) || length > most)
    throw new Error(`range() of ${length} items; at most ${most} are allowed`);
  return Array.from({ length }, (_, index) => start + index * stride);
}

function explained<T>(action: () => T): T {
  try {
    return action();
  } catch (error) {
    if (error instanceof KadenzError) throw error;
    const reason = error instanceof Error ? error.message : String(error);
    throw new KadenzError(
      'invalid_chat_template',
      `The model's chat template can't be used here: ${reason}.`,
      { cause: error },
    );
  }
}
