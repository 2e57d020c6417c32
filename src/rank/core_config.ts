// The core's configuration, once the host is open: where the host sizes the KV pool, its number of blocks comes from there.

import { resolveCoreConfig } from '../core/config.js';
import type { CoreConfig, ResolvedCoreConfig } from '../core/index.js';
import type { HostInfo } from '../host/host.js';
import type { RankTask } from './protocol.js';

/** Throws what a core's configuration is refused with. */
export function completeCoreConfig(
  { coreConfig, fitModelLen }: Pick<RankTask, 'coreConfig' | 'fitModelLen'>,
  { numBlocks }: Pick<HostInfo, 'numBlocks'>,
): CoreConfig {
  if (coreConfig.numBlocks !== 0) return coreConfig;
  if (!Number.isInteger(numBlocks) || numBlocks < 1)
    throw new Error(`the host was to size the KV pool, and says that it has ${numBlocks} blocks`);
  const config: ResolvedCoreConfig = resolveCoreConfig({ ...coreConfig, numBlocks });
  const heldTokens = numBlocks * config.blockSize;
  return {
    ...config,
    maxModelLen: fitModelLen ? Math.min(config.maxModelLen, heldTokens) : config.maxModelLen,
  };
}
