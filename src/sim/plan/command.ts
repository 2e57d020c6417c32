// kadenz simulate --plan: what a rollout would take on a device, and what another KV size, group size or number of replicas would do.
// docs/simulation.md says what is modelled and what is not.

import { writeFile } from 'node:fs/promises';
import { type Command, Option } from 'commander';
import { KadenzError } from '../../errors.js';
import { DEVICE_PROFILE_NAMES } from '../device_profiles.js';
import { type CaseResult, runCase } from './case.js';
import { planJson } from './json.js';
import { type PlanFlags, planOptionsOf } from './options.js';
import { PlanPool } from './pool.js';
import { planSvg } from './svg.js';
import { planText } from './table.js';

const FLAGS: readonly (readonly [flags: string, description: string])[] = [
  ['--plan', 'plan a rollout instead of searching for faults'],
  ['--model-config <file>', "plan: the model's config.json"],
  ['--device-profile <name>', `plan: ${DEVICE_PROFILE_NAMES.join(', ')} (default: h200)`],
  [
    '--efficiency <share>',
    "plan: of the device's roofline that is reached (default: the profile's, 0.75 for a GPU)",
  ],
  ['--dtype <type>', 'plan: of weights and KV cache, bfloat16 or float32 (default: bfloat16)'],
  ['--prompts <n>', 'plan: prompts of the rollout'],
  ['--n <n>', 'plan: samples of each prompt (default: 1)'],
  ['--oversample <factor>', 'plan: start so many times more samples, stop each prompt at n (default: 1)'],
  ['--lengths <lengths>', 'plan: output tokens: FILE, lognormal:MEDIAN,SIGMA[,CAP] or fixed:TOKENS'],
  ['--prompt-lengths <lengths>', 'plan: prompt tokens, the same way (default: fixed:512)'],
  ['--shared-prefix <tokens>', 'plan: tokens in front of every prompt, the same for all (default: 0)'],
  ['--kv-blocks <n>', 'plan: blocks of the KV cache (default: what fits)'],
  ['--gpu-memory-utilization <share>', 'plan: of the memory that may be used (default: 0.9)'],
  ['--block-size <tokens>', 'plan: tokens of a block (default: 16)'],
  ['--max-num-seqs <n>', 'plan: sequences running at once (default: 256)'],
  ['--max-num-batched-tokens <n>', 'plan: tokens computed in one step (default: 8192)'],
  ['--max-model-len <tokens>', "plan: prompt and output together (default: the model's)"],
  ['--replicas <n>', 'plan: engines that share the rollout, up to 100000 (default: 1)'],
  [
    '--group-placement <way>',
    'plan: prefix keeps a group on one replica, round-robin deals samples (default: prefix)',
  ],
  [
    '--simulate-replicas <n>',
    'plan: replicas run on the real core; beyond, a fast model that they check (default: 16)',
  ],
  [
    '--weights-link <links>',
    'plan: same-gpu, nvlink or pcie, and ethernet:GBPS between machines (default: nvlink,ethernet:50)',
  ],
  ['--gpus-per-machine <n>', 'plan: replicas on one machine (default: 8)'],
  ['--seed <n>', 'plan: where the drawn lengths come from (default: 0)'],
  ['--svg <file>', 'plan: draw batch size, KV use and finished share over time'],
  ['--json', 'plan: JSON instead of tables'],
  ['--workers <n>', 'plan: threads (default: as many as there are processors)'],
];

/** Adds the flags of --plan, but for those that the command has already and that mean the same there (--seed, --workers). */
export function addPlanFlags(command: Command): void {
  const known = new Set(command.options.map(({ long }) => long));
  const add = (option: Option) => {
    if (!known.has(option.long)) command.addOption(option);
  };
  for (const [flags, description] of FLAGS) add(new Option(flags, description));
  add(
    new Option(
      '--what-if <change>',
      'plan: also kv=, n=, oversample=, replicas= or max-num-seqs= (such as kv=0.5,2); may be repeated',
    ).argParser((value: string, before: string[] | undefined) => [...(before ?? []), value]),
  );
}

/**
 * Plans, prints, and gives the exit code.
 * @param write where the text goes: standard output, unless a test wants it
 */
export async function runPlan(
  flags: PlanFlags,
  write: (text: string) => void = (text) => process.stdout.write(text),
): Promise<number> {
  const options = planOptionsOf(flags);
  const pool = new PlanPool(options.workers ?? undefined);
  try {
    const results: CaseResult[] = await Promise.all(
      options.cases.map((plan) => runCase(plan, pool, options)),
    );
    write(options.json ? `${planJson(options, results)}\n` : planText(options, results));
    if (options.svg !== null) await writeSvg(options.svg, await planSvg(results));
  } finally {
    await pool.close();
  }
  return 0;
}

async function writeSvg(path: string, svg: string): Promise<void> {
  try {
    await writeFile(path, svg);
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new KadenzError('output_failed', `Writing to ${JSON.stringify(path)} failed: ${reason}.`, {
      path,
      cause,
    });
  }
}
