// kadenz score: token sequences in, the log-prob of each token out.

import { type Command, Option } from 'commander';
import { type Engine, type GenerateRequest, KadenzError, type LogprobsMode } from '../index.js';
import { addEngineFlags, type EngineFlags, engineOptionsOf } from './flags.js';
import { lineError } from './input_lines.js';
import { floats, idOfLine } from './request_line.js';
import { type Answerer, runSession } from './session.js';

interface ScoreFlags extends EngineFlags {
  sequences: string;
  logprobsMode: LogprobsMode;
}

const EXAMPLES = `
Input lines have one of "token_ids" (or "prompt_token_ids") and "text", and may have an "id". Output lines are
{"id", "token_ids", "logprobs"}: of each token given those before it; the first is null.

Example:
  kadenz score --model models/arithmetic --sequences sequences.jsonl --output scores.jsonl
`;

export function addScoreCommand(program: Command, finish: (exitCode: number) => void): void {
  const command = program.command('score').description('log-probs of given tokens');
  command
    .requiredOption('--sequences <file>', 'JSONL file of sequences; - is standard input')
    .addOption(
      new Option('--logprobs-mode <mode>', 'of the plain logits, or after temperature and bias')
        .choices(['raw', 'processed'])
        .default('raw'),
    );
  addEngineFlags(command)
    .addHelpText('after', EXAMPLES)
    .action(async (flags: ScoreFlags) => finish(await score(flags)));
}

function score(flags: ScoreFlags): Promise<number> {
  return runSession({
    engineOptions: engineOptionsOf(flags),
    input: flags.sequences,
    output: flags.output,
    logLevel: flags.logLevel,
    noun: 'sequences',
    answerer: (engine) => answerWith(engine, flags.logprobsMode),
  });
}

function answerWith(engine: Engine, logprobsMode: LogprobsMode): Answerer {
  return async (content, line) => {
    const id = idOfLine(content, line);
    const promptTokenIds = await tokensOfLine(engine, content, line);
    const request: GenerateRequest = {
      promptTokenIds,
      maxTokens: 0,
      logprobs: null,
      promptLogprobs: 0,
      logprobsMode,
    };
    const { samples, promptLogprobs } = await engine.generate(request);
    if (samples.some((sample) => sample.finishReason === 'abort')) return null;
    return { id, token_ids: Array.from(promptTokenIds), logprobs: floats(promptLogprobs!) };
  };
}

async function tokensOfLine(
  engine: Engine,
  content: Record<string, unknown>,
  line: number,
): Promise<ArrayLike<number>> {
  const { token_ids: tokenIds = content.prompt_token_ids, text } = content;
  if ((tokenIds === undefined) === (text === undefined)) {
    throw lineError(line, 'it needs exactly one of "token_ids" and "text"');
  }
  if (tokenIds !== undefined) {
    if (!Array.isArray(tokenIds)) throw lineError(line, '"token_ids" must be a list');
    return tokenIds;
  }
  if (typeof text !== 'string') throw lineError(line, '"text" must be a string');
  if (!engine.hasTokenizer) {
    throw new KadenzError(
      'tokenizer_missing',
      'This model has no tokenizer.json; give "token_ids" instead of "text".',
    );
  }
  return engine.encode(text);
}
