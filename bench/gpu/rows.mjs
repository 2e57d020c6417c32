// From what a workload measured to its row: ours, the floor, the share of it, the peer, the ratio. And the rows as one table.

import { decodeStep, limitOf, modelNumbers, prefillFlops, total, workloadFloor } from './roofline.mjs';
import { makeRequests } from './workloads.mjs';

function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

const medianOf = (rounds, field) => median(rounds.map((round) => round[field]));

/** `end`: what the engine said of its GPU when it closed. Targets that a workload does not name are left out. */
export function rowOf(workload, { rounds, config, peer, end }) {
  const measures = { wall: wallRow, decode: decodeRow, prefill: prefillRow };
  const row = {
    ...{ name: workload.name, title: workload.title, rounds: rounds.length },
    ...measures[workload.measure](workload, rounds, config),
    gapShare: end.gapShare,
  };
  const targets = [];
  if (peer !== undefined) {
    row.peer = peer;
    row.ratio = row.tokensPerSecond / peer.tokensPerSecond;
    if (workload.leastRatio !== undefined)
      targets.push([row.ratio >= workload.leastRatio, `${workload.leastRatio} x`]);
  }
  if (workload.leastShare !== undefined)
    targets.push([row.share >= workload.leastShare, percent(workload.leastShare)]);
  if (workload.leastFlopsPerSecond !== undefined) {
    const least = workload.leastFlopsPerSecond;
    targets.push([row.flopsPerSecond >= least, `${least / 1e12} TFLOP/s`]);
  }
  if (targets.length > 0) {
    row.target = targets.map(([, text]) => text).join(', ');
    row.meetsTarget = targets.every(([met]) => met);
  }
  return row;
}

function wallRow({ requests, engine }, rounds, config) {
  const made = makeRequests({ ...requests, vocabSize: config.vocab_size, seed: 7 });
  const parts = workloadFloor(modelNumbers(config), made, engine.maxNumSeqs);
  const seconds = medianOf(rounds, 'seconds');
  const row = {
    tokensPerSecond: medianOf(rounds, 'tokensPerSecond'),
    seconds,
    floorSeconds: total(parts),
    floorParts: parts,
    share: total(parts) / seconds,
    limit: limitOf(parts),
  };
  if (rounds[0].decodeStepMs !== undefined) row.decodeStepMs = medianOf(rounds, 'decodeStepMs');
  const promptTokens = rounds.reduce((sum, round) => sum + round.promptTokens, 0);
  const cachedTokens = rounds.reduce((sum, round) => sum + round.cachedPromptTokens, 0);
  if (requests.kind === 'log-normal') {
    row.prefixShare = cachedTokens / promptTokens;
    row.tailShare = medianOf(rounds, 'tailShare');
  }
  return row;
}

/** The step at the mean context, that of the middle of the output. */
function decodeRow({ requests }, rounds, config) {
  const sequences = requests.requests;
  const context = requests.promptTokens + requests.outputTokens / 2;
  const parts = decodeStep(modelNumbers(config), { sequences, tokens: sequences * context });
  const decodeStepMs = medianOf(rounds, 'decodeStepMs');
  return {
    tokensPerSecond: (sequences * 1000) / decodeStepMs,
    seconds: medianOf(rounds, 'seconds'),
    prefillSeconds: medianOf(rounds, 'prefillSeconds'),
    decodeStepMs,
    floorStepMs: total(parts) * 1000,
    floorParts: parts,
    share: (total(parts) * 1000) / decodeStepMs,
    limit: limitOf(parts),
  };
}

function prefillRow({ requests }, rounds, config) {
  const prompts = Array.from({ length: requests.requests }, () => ({ tokens: requests.promptTokens }));
  const flops = prefillFlops(modelNumbers(config), prompts);
  const made = makeRequests({ ...requests, vocabSize: config.vocab_size, seed: 7 });
  const parts = workloadFloor(modelNumbers(config), made, requests.requests);
  const seconds = medianOf(rounds, 'seconds');
  return {
    promptTokensPerSecond: (requests.requests * requests.promptTokens) / seconds,
    seconds,
    flops,
    flopsPerSecond: flops / seconds,
    floorSeconds: total(parts),
    floorParts: parts,
    share: total(parts) / seconds,
    limit: limitOf(parts),
  };
}

export function priceRow({ name, title, mostPrice }, rounds) {
  const ratios = rounds.map(({ ratio }) => ratio);
  return {
    ...{ name, title, rounds: rounds.length },
    fixedSeconds: medianOf(rounds, 'fixedSeconds'),
    unrestrictedSeconds: medianOf(rounds, 'unrestrictedSeconds'),
    ratio: median(ratios),
    leastRatio: Math.min(...ratios),
    mostRatio: Math.max(...ratios),
    target: percent(mostPrice),
    meetsTarget: median(ratios) <= 1 + mostPrice,
  };
}

const percent = (share) => `${Math.round(share * 100)} %`;
const grouped = (value) => Math.round(value).toLocaleString('en-US');
const number = (value, digits) => (value === undefined ? '' : value.toFixed(digits));
const mark = ({ target, meetsTarget }) =>
  target === undefined ? '' : `${target}: ${meetsTarget ? 'yes' : 'no'}`;

/** Markdown that also reads well in a terminal. */
export function tableOf({ rows, prices, peers, gpu, date }) {
  const parts = [`${gpu.name}, driver ${gpu.driver}, cuBLASLt ${gpu.cublaslt}, ${date}; ${gpu.fingerprint}`];
  if (rows.length > 0) {
    parts.push(
      layOut([
        [
          'workload',
          'tok/s',
          'wall s',
          'step ms',
          'floor',
          'of it',
          'target',
          'peer tok/s',
          'ratio',
          'limit',
        ],
        ...rows.map((row) => [
          row.title,
          row.flopsPerSecond === undefined
            ? grouped(row.tokensPerSecond)
            : `${grouped(row.promptTokensPerSecond)} in, ${grouped(row.flopsPerSecond / 1e12)} TFLOP/s`,
          number(row.seconds, 3),
          number(row.decodeStepMs, 3),
          row.floorStepMs === undefined
            ? `${number(row.floorSeconds, 3)} s`
            : `${number(row.floorStepMs, 3)} ms`,
          percent(row.share),
          mark(row),
          row.peer === undefined ? '' : `${grouped(row.peer.tokensPerSecond)} ${row.peer.name}`,
          number(row.ratio, 2),
          row.limit,
        ]),
      ]),
    );
    const shared = rows.filter(({ prefixShare }) => prefixShare !== undefined);
    for (const { title, prefixShare, tailShare } of shared) {
      const percents = [prefixShare, tailShare].map((share) => (share * 100).toFixed(1));
      parts.push(
        `${title}: ${percents[0]} % of prompt tokens from the prefix cache; ${percents[1]} % of the time after 90 % of the samples had ended.`,
      );
    }
    const cited = rows.filter(({ peer }) => peer?.source !== undefined);
    for (const { peer } of cited) parts.push(`${peer.name}: ${peer.source}.`);
  }
  if (prices.length > 0) {
    parts.push(
      layOut([
        ['price of fixed sums', 'fixed s', 'unrestricted s', 'ratio', 'least .. most', 'target'],
        ...prices.map((row) => [
          row.title,
          number(row.fixedSeconds, 3),
          number(row.unrestrictedSeconds, 3),
          number(row.ratio, 4),
          `${number(row.leastRatio, 4)} .. ${number(row.mostRatio, 4)} (${row.rounds} pairs)`,
          mark(row),
        ]),
      ]),
    );
  }
  for (const { name, seconds, tokensPerSecond, stepMs, note } of peers) {
    parts.push(
      `${name}: ${grouped(tokensPerSecond)} tok/s, ${number(seconds, 3)} s, ${number(stepMs, 2)} ms a step; ${note}.`,
    );
  }
  return parts.join('\n\n');
}

function layOut(rows) {
  const widths = rows[0].map((_, column) => Math.max(...rows.map((row) => row[column].length)));
  const line = (cells) => `| ${cells.map((cell, column) => cell.padEnd(widths[column])).join(' | ')} |`;
  const rule = `|${widths.map((width) => '-'.repeat(width + 2)).join('|')}|`;
  return [line(rows[0]), rule, ...rows.slice(1).map(line)].join('\n');
}
