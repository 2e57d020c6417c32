// Who asks for what, and when. A workload makes appointments in virtual time and sends drafts; it hears of the
// requests that ended.

import { burstWorkload } from './burst_workload.js';
import { chatWorkload } from './chat_workload.js';
import { type FileRequest, fileWorkload } from './file_workload.js';
import { rlWorkload } from './rl_workload.js';
import type { Site, Workload } from './workload_site.js';

export const WORKLOADS = ['rl', 'chat', 'burst'] as const;
export type WorkloadName = (typeof WORKLOADS)[number];

export function createWorkload(kind: WorkloadName | readonly FileRequest[], site: Site): Workload {
  if (kind === 'rl') return rlWorkload(site);
  if (kind === 'chat') return chatWorkload(site);
  if (kind === 'burst') return burstWorkload(site);
  return fileWorkload(site, kind);
}
