// The part of WebAssembly's JavaScript interface that the core is loaded by: the compiler's own declarations come only with all of
// the browser's.

declare namespace WebAssembly {
  interface Description {
    module: string;
    name: string;
    kind: 'function' | 'table' | 'memory' | 'global';
  }
  class Module {
    constructor(bytes: Uint8Array);
    static imports(module: Module): Description[];
    static exports(module: Module): Omit<Description, 'module'>[];
  }
  class Memory {
    constructor(descriptor: { initial: number; maximum?: number });
    readonly buffer: ArrayBuffer;
  }
  class Instance {
    constructor(module: Module, imports: Record<string, Record<string, unknown>>);
    readonly exports: Record<string, unknown>;
  }
  function compile(bytes: Uint8Array): Promise<Module>;
}
