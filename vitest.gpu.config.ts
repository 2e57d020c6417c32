import { defineConfig } from 'vitest/config';

// Tests that need an NVIDIA GPU, run one file at a time by `npm run test:gpu`. Random models are made by bench/gpu/make_model.py.
export default defineConfig({
  test: {
    include: ['test/gpu/**/*.test.ts'],
    pool: 'forks',
    maxWorkers: 1,
    fileParallelism: false,
    testTimeout: 300_000,
    hookTimeout: 300_000,
  },
});
