// The adapters that requests may name, in the order in which they were loaded.
import { CoreState } from './core_state';
import { Request } from './request';

function at(c: CoreState, index: u32): usize {
  return c.adapters + ((<usize>index) << 2);
}

export function hasAdapter(c: CoreState, adapter: u32): bool {
  for (let index: u32 = 0; index < c.numAdapters; index++)
    if (load<u32>(at(c, index)) == adapter) return true;
  return false;
}

export function addAdapter(c: CoreState, adapter: u32): void {
  store<u32>(at(c, c.numAdapters++), adapter);
}

export function removeAdapter(c: CoreState, adapter: u32): void {
  let kept: u32 = 0;
  for (let index: u32 = 0; index < c.numAdapters; index++) {
    const other = load<u32>(at(c, index));
    if (other != adapter) store<u32>(at(c, kept++), other);
  }
  c.numAdapters = kept;
}

/** The first live request that names the adapter, or 0. */
export function userOf(c: CoreState, adapter: u32): usize {
  let request = c.firstLive;
  while (request != 0 && changetype<Request>(request).adapter != adapter)
    request = changetype<Request>(request).nextLive;
  return request;
}
