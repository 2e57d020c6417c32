/** Waits for a promise, but not longer than this: for goodbyes that must end whatever the other side does. Never rejects. */
export async function graceFor(promise: Promise<unknown>, graceMs: number): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const grace = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, graceMs);
  });
  const settled = promise.then(
    () => {},
    () => {},
  );
  await Promise.race([settled, grace]);
  clearTimeout(timer);
}
