// Who may know whom (docs/architecture.md): no arrow runs back up.

import { readFileSync } from 'node:fs';
import { posix } from 'node:path';
import { describe, expect, it } from 'vitest';
import { filesUnder, repositoryPath } from './files.js';

interface Arrow {
  from: string;
  to: string;
}

/** What each room of src/ may import, beside itself and what Node and its packages offer. */
const SRC_ROOMS: Readonly<Record<string, readonly string[]>> = {
  errors: [],
  generated: [],
  model: ['errors'],
  tokenizer: ['errors'],
  tcp_store: ['errors'],
  core: ['errors', 'generated'],
  host: ['errors', 'generated', 'model'],
  trace: ['errors', 'generated', 'core'],
  sim: ['errors', 'generated', 'core', 'trace', 'model'],
  rank: ['errors', 'generated', 'core', 'host', 'trace'],
  engine: ['errors', 'generated', 'core', 'host', 'trace', 'model', 'tokenizer', 'rank'],
  index: ['errors', 'generated', 'core', 'host', 'trace', 'model', 'tokenizer', 'rank', 'engine'],
  server: ['errors', 'tokenizer', 'index'],
  cli: ['errors', 'core', 'trace', 'sim', 'tokenizer', 'index', 'server'],
};

/** Packages that some rooms alone may import. */
const PACKAGE_ROOMS: Readonly<Record<string, readonly string[]>> = {
  piscina: ['rank', 'trace', 'sim'],
  '@huggingface/tokenizers': ['tokenizer'],
  '@huggingface/jinja': ['tokenizer'],
  'hash-wasm': ['trace', 'model'],
  '@hpcc-js/wasm-zstd': ['trace'],
  'pure-rand': ['sim'],
  commander: ['cli', 'sim'],
  'cli-progress': ['cli', 'sim'],
};

const NATIVE_ROOMS: Readonly<Record<string, readonly string[]>> = {
  model: [],
  cpu: ['model'],
  host: ['model', 'cpu', 'generated'],
  addon: ['model', 'host', 'node'],
  test: ['model', 'cpu', 'host', 'generated'],
  'cuda/kernels': [],
  cuda: ['cuda/kernels', 'model', 'host', 'generated'],
  'cuda/test': ['cuda', 'cuda/kernels', 'model', 'cpu', 'host', 'generated', 'test'],
  'cuda/bench': ['cuda', 'cuda/kernels', 'model', 'host', 'generated'],
};

/** What CUDA kernels may include of the rest: how an error is said, definitions of numbers, names and plain structs. */
const KERNEL_HEADERS = [
  ...['cuda/half.h', 'cuda/check.h', 'model/error.h'],
  ...['model/batch.h', 'model/dtype.h', 'host/philox.h'],
];

const source = (path: string): string => readFileSync(repositoryPath(path), 'utf8');

/** `src/engine/options.ts` and `src/engine.ts` are in the room `engine`. */
const roomOf = (path: string): string => path.split('/')[1]!.replace(/\.[a-z]+$/, '');

/** Static and dynamic imports and re-exports. */
function importsOf(path: string): Arrow[] {
  const pattern =
    /(?:^|\n)\s*(?:import|export)\b[^'";]*?from\s*['"]([^'"]+)['"]|\bimport\s*\(?\s*['"]([^'"]+)['"]/g;
  return Array.from(source(path).matchAll(pattern), ([, named, bare]) => {
    const target = (named ?? bare)!;
    return { from: path, to: target.startsWith('.') ? posix.join(posix.dirname(path), target) : target };
  });
}

function wrongArrows(arrows: readonly Arrow[], isAllowed: (arrow: Arrow) => boolean): string[] {
  return arrows.filter((arrow) => !isAllowed(arrow)).map(({ from, to }) => `${from} -> ${to}`);
}

describe('src/', () => {
  const arrows = filesUnder('src', /\.ts$/).flatMap(importsOf);

  it('is read by this test: known arrows are found', () => {
    expect(arrows).toContainEqual({ from: 'src/core/core.ts', to: 'src/core/wasm_core.js' });
    expect(arrows).toContainEqual({ from: 'src/core/index.ts', to: 'src/errors.js' });
    expect(arrows).toContainEqual({ from: 'src/core/flat.ts', to: 'flatbuffers' });
  });

  it('has no room that this test does not know', () => {
    const rooms = new Set(filesUnder('src', /\.ts$/).map(roomOf));
    expect([...rooms].filter((room) => !(room in SRC_ROOMS))).toEqual([]);
  });

  it('has no arrow that runs back up', () => {
    const inside = arrows.filter(({ to }) => to.startsWith('src/'));
    const wrong = wrongArrows(inside, ({ from, to }) => {
      return roomOf(to) === roomOf(from) || SRC_ROOMS[roomOf(from)]!.includes(roomOf(to));
    });
    expect(wrong).toEqual([]);
  });

  it('leaves its folder nowhere', () => {
    const relative = arrows.filter(
      ({ to }) => to.includes('/') && !to.startsWith('src/') && !/^(@|node:)/.test(to),
    );
    expect(
      wrongArrows(relative, ({ to }) => !/^(\.|test|assembly|native|scripts|examples|bench)/.test(to)),
    ).toEqual([]);
  });

  it('keeps each package where it belongs', () => {
    const packages = arrows.filter(({ to }) => to in PACKAGE_ROOMS);
    expect(wrongArrows(packages, ({ from, to }) => PACKAGE_ROOMS[to]!.includes(roomOf(from)))).toEqual([]);
  });

  it('lets the step loop know the core and the Host interface only, not which host it is', () => {
    const allowed = /^(src\/(core\/|errors\.js|generated\/|host\/host\.js|rank\/protocol\.js)|flatbuffers$)/;
    const loop = importsOf('src/rank/step_loop.ts');
    expect(loop.length).toBeGreaterThan(2);
    expect(wrongArrows(loop, ({ to }) => allowed.test(to))).toEqual([]);
  });

  it('loads the native addon in host/ only', () => {
    const loaders = filesUnder('src', /\.ts$/).filter((path) =>
      /\.node['"`]|process\.dlopen/.test(source(path)),
    );
    expect(loaders.filter((path) => !path.startsWith('src/host/'))).toEqual([]);
  });

  it("knows the CUDA library's file by name in host/addon.ts only", () => {
    const knowing = filesUnder('src', /\.ts$/).filter((path) => /kadenz_cuda\.so/.test(source(path)));
    expect(knowing).toEqual(['src/host/addon.ts']);
  });
});

describe('assembly/', () => {
  const arrows = filesUnder('assembly', /\.ts$/).flatMap(importsOf);

  it('imports only itself', () => {
    expect(arrows.length).toBeGreaterThan(10);
    expect(wrongArrows(arrows, ({ to }) => to.startsWith('assembly/'))).toEqual([]);
  });

  it('keeps wire/ free of the core', () => {
    const wire = [...filesUnder('assembly/wire', /\.ts$/), ...filesUnder('assembly/wire/generated', /\.ts$/)];
    expect(wire).toContain('assembly/wire/generated/command.ts');
    expect(wrongArrows(wire.flatMap(importsOf), ({ to }) => to.startsWith('assembly/wire/'))).toEqual([]);
  });
});

describe('native/', () => {
  const files = filesUnder('native', /\.(cc|h|cu|cuh)$/);
  const exists = new Set(files);

  function includesOf(path: string): Arrow[] {
    return Array.from(source(path).matchAll(/^\s*#\s*include\s*["<]([^">]+)[">]/gm), ([, header]) => ({
      from: path,
      to: header!,
    }));
  }

  /** `native/cuda/kernels/rows.h` is in the room `cuda/kernels`, `native/cuda/matmul.h` in `cuda`. */
  function nativeRoomOf(path: string): string {
    const [, room, inner] = path.split('/');
    return `${room}/${inner}` in NATIVE_ROOMS ? `${room}/${inner}` : room!;
  }

  /** The included file's path below native/, or undefined where it is not ours. */
  function includedFile({ from, to }: Arrow): string | undefined {
    const folders = [posix.dirname(from), 'native', 'native/test', 'native/cuda/test'];
    return folders.map((folder) => posix.join(folder, to)).find((path) => exists.has(path));
  }

  /** The room of an included header; '' for the C++ library, CUDA and the system. */
  function headerRoom(arrow: Arrow): string {
    if (/^(napi|node_api|uv|node)\.?[^/]*\.h$/.test(arrow.to)) return 'node';
    if (arrow.to.startsWith('flatbuffers/') || arrow.to.endsWith('_generated.h')) return 'generated';
    const path = includedFile(arrow);
    return path === undefined ? '' : nativeRoomOf(path);
  }

  const arrows = files.flatMap(includesOf);

  it('has no room that this test does not know', () => {
    expect([...new Set(files.map(nativeRoomOf))].filter((room) => !(room in NATIVE_ROOMS))).toEqual([]);
  });

  it('has no arrow that runs back up: the model knows no kernels, only the host knows the wire, only the addon knows Node, nobody knows cuda/', () => {
    expect(arrows.length).toBeGreaterThan(100);
    const wrong = wrongArrows(arrows, (arrow) => {
      const [from, to] = [nativeRoomOf(arrow.from), headerRoom(arrow)];
      if (from === 'cuda/kernels' && KERNEL_HEADERS.includes(arrow.to)) return true;
      return to === '' || to === from || NATIVE_ROOMS[from]!.includes(to);
    });
    expect(wrong).toEqual([]);
  });

  it('includes Node in the addon, so the rule above is not empty', () => {
    expect(arrows.some((arrow) => headerRoom(arrow) === 'node' && nativeRoomOf(arrow.from) === 'addon')).toBe(
      true,
    );
  });

  it('lets CUDA kernels know pointers, sizes and a stream: of libraries, only those of C++ and of CUDA', () => {
    const ofKernels = arrows.filter(({ from }) => nativeRoomOf(from) === 'cuda/kernels');
    expect(ofKernels.length).toBeGreaterThan(30);
    const foreign = ofKernels.filter((arrow) => headerRoom(arrow) === '');
    expect(wrongArrows(foreign, ({ to }) => /^([a-z_]+|cuda[a-zA-Z0-9_]*\.h)$/.test(to))).toEqual([]);
    expect(KERNEL_HEADERS.filter((header) => !exists.has(`native/${header}`))).toEqual([]);
  });

  it("knows the CUDA library's file and functions by name in host/cuda_plugin only, outside of cuda/", () => {
    const names = /"kadenz_cuda|\bdlopen\s*\(|\bdlsym\s*\(/;
    const knowing = files.filter((path) => !path.startsWith('native/cuda/') && names.test(source(path)));
    expect(knowing.length).toBeGreaterThan(0);
    expect(knowing.filter((path) => !/^native\/host\/cuda_plugin\.(h|cc)$/.test(path))).toEqual([]);
  });
});

describe('schemas/', () => {
  it('know nobody but themselves', () => {
    const schemas = filesUnder('schemas', /\.fbs$/);
    const included = schemas.flatMap((path) =>
      Array.from(source(path).matchAll(/^include "([^"]+)";/gm), ([, to]) => to!),
    );
    expect(included.length).toBeGreaterThan(0);
    expect(included.filter((to) => !schemas.includes(`schemas/${to}`))).toEqual([]);
  });
});
