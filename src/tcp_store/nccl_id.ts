// Where the 128 bytes by which NCCL ranks find one another lie in the store: as stock torch.distributed writes them for a group that a trainer
// makes with init_method tcp:// and a group name. The trainer is rank 0 there: it makes the id at its first collective, so the wait for it may be
// long. Keys are those of torch 2.11 to 2.15.

import { setTimeout as sleep } from 'node:timers/promises';
import { KadenzError } from '../errors.js';
import type { TcpStoreClient } from './client.js';

export const NCCL_ID_BYTES = 128;
const POLL_MS = 50;

/** Behind the user's `/`, which the client puts before each: torch's legacy backend, then nccl2's, two ways. */
function candidateKeys(group: string): string[] {
  const prefix = `${group}/${group}//cuda//`;
  return [`${prefix}0`, `${prefix}${group}/nccl_storekey_0`, `${group}/${group}//nccl2/nccl_storekey_0`];
}

/**
 * The id of group `group`, once rank 0 has written it. `client` has no prefix.
 * @throws KadenzError `store_timeout`, `store_unavailable`, `store_protocol`
 */
export async function readNcclId(client: TcpStoreClient, group: string, timeoutMs: number): Promise<Buffer> {
  const deadline = performance.now() + timeoutMs;
  const keys = candidateKeys(group);
  for (;;) {
    for (const key of keys) {
      if (await client.check([key])) return checkedId(await client.get(key), key);
    }
    if (performance.now() + POLL_MS >= deadline) break;
    await sleep(POLL_MS);
  }
  const sentence =
    `Rank 0 wrote no NCCL id of the group '${group}' within ${timeoutMs} ms (looked for ${keys.join(', ')}). ` +
    'Is that the name that the trainer gave, has it begun its first collective, and did it make the group without device_id?';
  throw new KadenzError('store_timeout', sentence, { value: group, limit: timeoutMs });
}

/** For an engine that is rank 0: as torch's legacy backend reads it. */
export async function writeNcclId(client: TcpStoreClient, group: string, id: Uint8Array): Promise<void> {
  await client.set(candidateKeys(group)[0]!, checkedId(Buffer.from(id), 'the id'));
}

function checkedId(id: Buffer, what: string): Buffer {
  if (id.length === NCCL_ID_BYTES) return id;
  throw new KadenzError(
    'store_protocol',
    `${what} has ${id.length} bytes; an NCCL id has ${NCCL_ID_BYTES}.`,
    {
      value: id.length,
      limit: NCCL_ID_BYTES,
    },
  );
}
