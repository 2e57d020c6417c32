// A workload from a JSONL file: what arrives when. Lengths are scaled down together when the longest does not fit the
// run's model length.
//
//   {"arrival_s": 0.25, "prompt_tokens": 900, "output_tokens": 120, "n": 4, "priority": 0, "prefix_group": "system-a"}

import { KadenzError } from '../../errors.js';
import { scaleLength } from './quantiles.js';
import { drawMaxTokens, familyTokens, type Site, type Workload } from './workload_site.js';

export interface FileRequest {
  arrivalUs: number;
  promptTokens: number;
  outputTokens: number;
  n: number;
  priority: number;
  /** Prompts of one group begin alike; 0: of none. */
  prefixGroup: number;
}

const MAX_REQUESTS = 1_000_000;
const MAX_TOKENS = 10_000_000;
const MAX_N = 16;
const MAX_ARRIVAL_S = 1e9;

/** Throws a KadenzError that names the line. */
export function parseWorkload(text: string, name: string): FileRequest[] {
  const groups = new Map<string, number>();
  const requests: FileRequest[] = [];
  for (const [index, line] of text.split('\n').entries()) {
    if (line.trim() === '') continue;
    const where = `Line ${index + 1} of ${name}`;
    const fields = parseLine(line, where);
    const number = (field: string, otherwise: number | null, least: number, most: number, whole = true) => {
      const value = fields[field] ?? otherwise;
      const fits = typeof value === 'number' && value >= least && value <= most;
      if (fits && (!whole || Number.isInteger(value))) return value;
      throw new KadenzError(
        'invalid_argument',
        `${where} has ${field} ${JSON.stringify(value)}; it must be ${whole ? 'a whole number' : 'a number'} from ${least} to ${most}.`,
        { value, limit: most },
      );
    };
    const group = fields.prefix_group;
    if (group !== undefined && group !== null) {
      if (typeof group !== 'string' && typeof group !== 'number')
        throw new KadenzError(
          'invalid_argument',
          `${where} has a prefix_group that is neither text nor a number.`,
        );
      if (!groups.has(String(group))) groups.set(String(group), groups.size + 1);
    }
    requests.push({
      arrivalUs: Math.round(number('arrival_s', 0, 0, MAX_ARRIVAL_S, false) * 1e6),
      promptTokens: number('prompt_tokens', null, 1, MAX_TOKENS),
      outputTokens: number('output_tokens', null, 1, MAX_TOKENS),
      n: number('n', 1, 1, MAX_N),
      priority: number('priority', 0, -1000, 1000),
      prefixGroup: group === undefined || group === null ? 0 : groups.get(String(group))!,
    });
    if (requests.length > MAX_REQUESTS)
      throw new KadenzError(
        'invalid_argument',
        `${name} has more than ${MAX_REQUESTS} requests; give fewer.`,
        {
          limit: MAX_REQUESTS,
        },
      );
  }
  if (requests.length === 0)
    throw new KadenzError('invalid_argument', `${name} has no requests; give one JSON object a line.`);
  return requests.sort((a, b) => a.arrivalUs - b.arrivalUs);
}

function parseLine(line: string, where: string): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(line);
    if (typeof value === 'object' && value !== null && !Array.isArray(value))
      return value as Record<string, unknown>;
  } catch (cause) {
    throw new KadenzError('invalid_argument', `${where} is not JSON: ${(cause as Error).message}.`, {
      cause,
    });
  }
  throw new KadenzError('invalid_argument', `${where} is not a JSON object.`);
}

export function fileWorkload(site: Site, requests: readonly FileRequest[]): Workload {
  const { random, time, longest, vocabSize } = site;
  const most = requests.reduce(
    (sum, { promptTokens, outputTokens }) => Math.max(sum, promptTokens + outputTokens),
    0,
  );
  let next = 0;
  let isStopped = false;

  /** Down to the run's length, never up. */
  const scaled = (tokens: number) => (most <= longest ? tokens : scaleLength(tokens, most, longest));

  function send(): void {
    if (isStopped) return;
    const request = requests[next]!;
    next += 1;
    const length = Math.min(longest - 1, scaled(request.promptTokens));
    const prompt = familyTokens(1_000_000 + next, Math.max(1, length), vocabSize);
    if (request.prefixGroup > 0)
      prompt.set(familyTokens(request.prefixGroup, Math.floor((3 * prompt.length) / 4), vocabSize));
    const outputs = scaled(request.outputTokens);
    const lengths = Array.from({ length: request.n }, () => outputs);
    const maxTokens = drawMaxTokens(random, outputs);
    site.send([
      {
        client: Math.floor(next / 7),
        promptTokenIds: prompt,
        lengths,
        maxTokens,
        priority: request.priority,
      },
    ]);
    if (next < requests.length) time.after(requests[next]!.arrivalUs - time.nowUs, send);
  }

  return {
    begin(): void {
      time.after(requests[0]!.arrivalUs, send);
    },
    ended(): void {},
    stop(): void {
      isStopped = true;
    },
    get isOver(): boolean {
      return next === requests.length;
    },
  };
}
