// What executes instructions. The step loop knows this interface and nothing of who is behind it.

export interface HostInfo {
  /** 'cpu' */
  device: string;
  /** Which kernels run: 'scalar', 'avx2' or 'avx512'. All give the same bits. */
  isa: string;
  /** Hosts of equal fingerprints give equal bits for equal instructions and weights. */
  fingerprint: string;
  weightBytes: number;
  kvBytes: number;
  /** Activations and logits, as allocated now. */
  scratchBytes: number;
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
