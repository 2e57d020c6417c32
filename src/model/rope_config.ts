// Rotary embedding from config.json: rope_theta and rope_scaling as transformers 4 writes them, rope_parameters as
// transformers 5 does. Default, linear, llama3 and yarn are resolved to numbers as transformers 5 computes them
// (modeling_rope_utils); other kinds are refused by name.

import type { ConfigFields } from './config_fields.js';
import type { RopeConfig } from './model_config.js';

const MOST_POSITIONS = 2 ** 24;
const THETA_DEFAULT = 10_000;

export function readRopeConfig(config: ConfigFields, maxPositionEmbeddings: number): RopeConfig {
  config.only('partial_rotary_factor', [1]);
  const parameters = config.object('rope_parameters');
  const scaling = config.object('rope_scaling');
  if (parameters !== null && scaling !== null) {
    config.unsupported(
      'rope_scaling',
      config.value('rope_scaling'),
      'config.json has rope_parameters as well, and only one can hold',
    );
  }
  const ownTheta = config.value('rope_theta');
  const fields = parameters ?? scaling;
  if (fields === null)
    return {
      ...ropeOfKind('default'),
      theta: config.number('rope_theta', { over: 0, otherwise: THETA_DEFAULT }),
    };

  const kind = readKind(fields);
  const innerTheta = fields.value('rope_theta');
  if (ownTheta !== undefined && innerTheta !== undefined && ownTheta !== innerTheta) {
    fields.unsupported('rope_theta', innerTheta, `config.json says ${ownTheta} as well`);
  }
  const theta =
    innerTheta === undefined
      ? config.number('rope_theta', { over: 0, otherwise: THETA_DEFAULT })
      : fields.number('rope_theta', { over: 0 });
  fields.only('partial_rotary_factor', [1]);
  const rope = { ...ropeOfKind(kind), theta };
  if (kind === 'linear') rope.factor = fields.number('factor', { over: 0 });
  if (kind === 'llama3') readLlama3(fields, rope, maxPositionEmbeddings);
  if (kind === 'yarn') readYarn(fields, rope, maxPositionEmbeddings);
  if (kind === 'default') fields.ignore(['factor']); // transformers reads no factor of this kind
  fields.refuseTheRest();
  return rope;
}

function ropeOfKind(kind: RopeConfig['kind']): RopeConfig {
  return {
    kind,
    theta: THETA_DEFAULT,
    factor: 1,
    lowFreqFactor: 1,
    highFreqFactor: 4,
    originalMaxPositionEmbeddings: 0,
    betaFast: 32,
    betaSlow: 1,
    attentionFactor: 1,
    truncate: true,
  };
}

/** `type` is the older name of `rope_type`; both may stand there if they agree. */
function readKind(fields: ConfigFields): RopeConfig['kind'] {
  for (const layerType of ['full_attention', 'sliding_attention']) {
    const nested = fields.value(layerType);
    if (nested !== undefined)
      fields.unsupported(layerType, nested, 'Kadenz supports one rotary embedding for all layers');
  }
  const old = fields.value('type');
  const kind = fields.string('rope_type', typeof old === 'string' ? old : 'default');
  if (old !== undefined && old !== kind)
    fields.unsupported('type', old, `rope_type is ${JSON.stringify(kind)}`);
  if (kind === 'default' || kind === 'linear' || kind === 'llama3' || kind === 'yarn') return kind;
  return fields.unsupported('rope_type', kind, 'Kadenz supports "default", "linear", "llama3" and "yarn"');
}

function readOriginalPositions(fields: ConfigFields, maxPositionEmbeddings: number): number {
  return fields.integer('original_max_position_embeddings', {
    least: 1,
    most: MOST_POSITIONS,
    otherwise: maxPositionEmbeddings,
  });
}

function readLlama3(fields: ConfigFields, rope: RopeConfig, maxPositionEmbeddings: number): void {
  rope.factor = fields.number('factor', { over: 0 });
  rope.lowFreqFactor = fields.number('low_freq_factor', { over: 0 });
  rope.highFreqFactor = fields.number('high_freq_factor', { over: 0 });
  rope.originalMaxPositionEmbeddings = readOriginalPositions(fields, maxPositionEmbeddings);
  if (rope.highFreqFactor <= rope.lowFreqFactor) {
    fields.invalid(
      'high_freq_factor',
      rope.highFreqFactor,
      `greater than low_freq_factor, ${rope.lowFreqFactor}`,
    );
  }
}

function readYarn(fields: ConfigFields, rope: RopeConfig, maxPositionEmbeddings: number): void {
  rope.originalMaxPositionEmbeddings = readOriginalPositions(fields, maxPositionEmbeddings);
  // A factor of null means the ratio of the lengths.
  rope.factor = fields.number('factor', {
    over: 0,
    otherwise: maxPositionEmbeddings / rope.originalMaxPositionEmbeddings,
  });
  rope.betaFast = fields.number('beta_fast', { over: 0, otherwise: 32 });
  rope.betaSlow = fields.number('beta_slow', { over: 0, otherwise: 1 });
  rope.truncate = fields.boolean('truncate', true);
  const given = fields.value('attention_factor');
  const magnitude = fields.value('mscale');
  const magnitudeAllDimensions = fields.value('mscale_all_dim');
  if (given !== undefined) {
    rope.attentionFactor = fields.number('attention_factor', { over: 0 });
  } else if (magnitude && magnitudeAllDimensions) {
    rope.attentionFactor =
      yarnMagnitude(rope.factor, fields.number('mscale', { over: 0 })) /
      yarnMagnitude(rope.factor, fields.number('mscale_all_dim', { over: 0 }));
  } else {
    rope.attentionFactor = yarnMagnitude(rope.factor, 1);
  }
}

function yarnMagnitude(factor: number, scale: number): number {
  return factor <= 1 ? 1 : 0.1 * scale * Math.log(factor) + 1;
}
