import { defineConfig } from 'vitest/config';

// Tests run after `npm run build`: the core is build/core.wasm, the native host build/native, and worker threads load dist/.
export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    exclude: ['test/gpu/**'],
    pool: 'forks',
    maxWorkers: 2,
    testTimeout: 60_000,
    hookTimeout: 60_000,
  },
});
