#!/usr/bin/env node
// The command line. Standard output holds data only; everything for people goes to standard error. The exit code tells success.

import { readFileSync } from 'node:fs';
import { Command } from 'commander';
import { KadenzError } from '../index.js';
import { addDoctorCommand } from './doctor.js';
import { addGenerateCommand } from './generate.js';
import { addReplayCommand } from './replay.js';
import { addScoreCommand } from './score.js';
import { addSimulateCommand } from './simulate.js';
import { addTraceCommand } from './trace.js';

const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as {
  version: string;
};

const program = new Command('kadenz')
  .description('Deterministic rollouts for RL post-training: many samples of many prompts, with log-probs.')
  .version(version, '--version', 'print the version')
  .helpOption('--help', 'print this help')
  .configureHelp({ helpWidth: Math.min(process.stdout.columns ?? 100, 110) })
  .showHelpAfterError('(--help tells more)');

const finish = (exitCode: number) => {
  process.exitCode = exitCode;
};
addGenerateCommand(program, finish);
addScoreCommand(program, finish);
addReplayCommand(program, finish);
addTraceCommand(program, finish);
addSimulateCommand(program, finish);
addDoctorCommand(program, finish, version);

try {
  await program.parseAsync();
} catch (error) {
  // What the user can mend gets a sentence; a fault of ours gets its stack.
  const text =
    error instanceof KadenzError
      ? `${error.message} (${error.code})`
      : error instanceof Error
        ? error.stack
        : String(error);
  process.stderr.write(`kadenz: ${text}\n`);
  finish(1);
}
