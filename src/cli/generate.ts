// kadenz generate: prompts in, samples out, a JSON line each.

import { type Command, Option } from 'commander';
import { deriveSeed, type Engine, KadenzError, type LogprobsMode } from '../index.js';
import {
  addEngineFlags,
  type EngineFlags,
  engineOptionsOf,
  idListFlag,
  numberFlag,
  wideFlag,
  withoutUndefined,
} from './flags.js';
import { type RequestDefaults, requestOfLine, resultLine } from './request_line.js';
import { type Answerer, runSession } from './session.js';

interface GenerateFlags extends EngineFlags {
  prompts?: string;
  prompt?: string;
  n?: number;
  maxTokens?: number;
  minTokens?: number;
  temperature?: number;
  topP?: number;
  topK?: number;
  minP?: number;
  seed: bigint;
  repetitionPenalty?: number;
  presencePenalty?: number;
  frequencyPenalty?: number;
  stopTokenIds?: number[];
  ignoreEos?: boolean;
  logprobs?: number;
  promptLogprobs?: number;
  logprobsMode?: LogprobsMode;
}

const EXAMPLES = `
Input lines have one of "prompt", "prompt_token_ids" and "messages" (rendered by the model's chat template), and may have
an "id" and a "sampling" object, whose fields (n, max_tokens, temperature, top_p, ...) win over the flags. Other fields are
passed over. Output lines come in the order of the input. A line that can't be answered gives {"line", "error": {"code",
"message"}} in its place, and the exit code is 1.

A sample depends on its line alone: on the prompt, its sampling, and --seed with the line's number.

Examples:
  kadenz generate --model models/arithmetic --prompts models/arithmetic/demo_prompts.jsonl --n 8 --max-tokens 24
  echo '{"messages": [{"role": "user", "content": "What is 37+5?"}]}' | kadenz generate --model models/arithmetic --prompts -
  kadenz generate --model DIR --prompt "Once upon a time" --n 4 --max-tokens 100 --output samples.jsonl
`;

export function addGenerateCommand(program: Command, finish: (exitCode: number) => void): void {
  const command = program.command('generate').description('sample continuations of prompts');
  command
    .option('--prompts <file>', 'JSONL file of prompts; - is standard input')
    .option('--prompt <text>', 'one prompt, as it is (no chat template)')
    .option('--n <n>', 'samples of each prompt (default: 1)', numberFlag)
    .option('--max-tokens <n>', 'tokens of a sample at most (default: 16)', numberFlag)
    .option('--min-tokens <n>', 'no end before so many tokens (default: 0)', numberFlag)
    .option('--temperature <t>', '0 is greedy (default: 1)', numberFlag)
    .option('--top-p <p>', 'nucleus sampling; 1: off (default: 1)', numberFlag)
    .option('--top-k <k>', 'of the k most likely tokens; 0: off (default: 0)', numberFlag)
    .option(
      '--min-p <p>',
      'of tokens at least p times as likely as the likeliest; 0: off (default: 0)',
      numberFlag,
    )
    .addOption(
      new Option('--seed <n>', 'where all randomness comes from').argParser(wideFlag).default(0n, '0'),
    )
    .option('--repetition-penalty <x>', 'over prompt and output; 1: off (default: 1)', numberFlag)
    .option('--presence-penalty <x>', 'over the output; 0: off (default: 0)', numberFlag)
    .option('--frequency-penalty <x>', 'over the output; 0: off (default: 0)', numberFlag)
    .option('--stop-token-ids <ids>', 'token ids that end a sample, with commas between them', idListFlag)
    .option('--ignore-eos', "go on after the model's end-of-sequence token")
    .option(
      '--logprobs <k>',
      '0: of each sampled token; k: also of the k most likely; -1: none (default: 0)',
      numberFlag,
    )
    .option('--prompt-logprobs <k>', "the same for the prompt's tokens (default: -1)", numberFlag)
    .addOption(
      new Option(
        '--logprobs-mode <mode>',
        'of the plain logits, or after penalties, temperature and filters (default: raw)',
      ).choices(['raw', 'processed']),
    );
  addEngineFlags(command)
    .addHelpText('after', EXAMPLES)
    .action(async (flags: GenerateFlags) => finish(await generate(flags)));
}

async function generate(flags: GenerateFlags): Promise<number> {
  const { prompts, prompt } = flags;
  if ((prompts === undefined) === (prompt === undefined)) {
    throw new KadenzError('invalid_argument', 'Give either --prompts FILE or --prompt TEXT.');
  }
  return runSession({
    engineOptions: engineOptionsOf(flags),
    input: prompts ?? [{ number: 1, content: { prompt } }],
    output: flags.output,
    logLevel: flags.logLevel,
    noun: 'prompts',
    answerer: (engine) => answerWith(engine, flags),
  });
}

function answerWith(engine: Engine, flags: GenerateFlags): Answerer {
  const defaults: RequestDefaults = withoutUndefined({
    n: flags.n,
    maxTokens: flags.maxTokens,
    minTokens: flags.minTokens,
    temperature: flags.temperature,
    topP: flags.topP,
    topK: flags.topK,
    minP: flags.minP,
    repetitionPenalty: flags.repetitionPenalty,
    presencePenalty: flags.presencePenalty,
    frequencyPenalty: flags.frequencyPenalty,
    stopTokenIds: flags.stopTokenIds,
    ignoreEos: flags.ignoreEos,
    logprobs: flags.logprobs,
    promptLogprobs: flags.promptLogprobs,
    logprobsMode: flags.logprobsMode,
    detokenize: engine.hasTokenizer,
  });
  return async (content, line) => {
    // By the line's number, not by how many requests came before: a line that is mended changes no other line's samples.
    const seed = deriveSeed(flags.seed, line - 1);
    const request = requestOfLine(content, { line, defaults: { ...defaults, seed } });
    const result = await engine.generate(request);
    const isCutShort = result.samples.some((sample) => sample.finishReason === 'abort');
    return isCutShort ? null : resultLine(result);
  };
}
