// The two kinds of wrong. A caller's mistake becomes a code of types.fbs (ErrorCode), with the value that was refused and the limit it
// broke. A broken invariant stops the core, in release too: the host of this module sees the abort and gives the core up.

/** Stops the core unless `holds`. `rule` is a sentence that is true of a healthy core. */
export function ensure(holds: bool, rule: string): void {
  if (!holds) abort(rule);
}
