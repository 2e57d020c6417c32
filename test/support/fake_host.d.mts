// Types of fake_host.mjs, which is plain JavaScript because a worker loads it as its host.
export declare class FakeHost {
  constructor(vocabSize: number);
  readonly info: { name: string; fingerprint: string };
  closed: boolean;
  submit(bytes: Uint8Array): void;
  collect(): Uint8Array;
  close(): void;
}
export declare function fakeToken(row: {
  seed: number | bigint;
  sample: number;
  position: number;
  vocabSize: number;
}): number;
export declare function fakeLogprob(position: number): number;
