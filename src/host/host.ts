// What executes instructions. The step loop knows this interface and nothing of who is behind it.

/** In what weights and KV cache are held; sums are float32 with each. */
export type HostDtype = 'float32' | 'bfloat16' | 'float16';

export interface HostInfo {
  /** 'cpu', or 'cuda:0' and so on. */
  device: string;
  /** Which kernels run: 'scalar', 'avx2' or 'avx512', all with the same bits; with cuda the GPU's name. */
  isa: string;
  /** Hosts of equal fingerprints give equal bits for equal instructions and weights. */
  fingerprint: string;
  /** KV blocks of the pool: those asked for, or, where the host was to choose, what its memory holds. */
  numBlocks: number;
  weightBytes: number;
  kvBytes: number;
  /** Activations and logits, as allocated now. */
  scratchBytes: number;
  /** Steps that a GPU has done, what they took there, and how long it idled between two of which the later one was submitted in time. */
  gpuSteps?: number | undefined;
  gpuBusyMs?: number | undefined;
  gpuGapMs?: number | undefined;
}

export interface Host {
  readonly info: HostInfo;
  /** Enqueues one Instruction and returns at once. The bytes must stay as they are until its Result was collected. */
  submit(instruction: Uint8Array): void;
  /** Waits for the oldest instruction that was not collected yet. The Result's bytes belong to the caller. */
  collect(): Uint8Array;
  /** Ends the host's thread and frees its memory. Twice is fine. */
  close(): void;
}
