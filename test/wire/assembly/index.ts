// The module that the wire tests compile: AssemblyScript's side of the golden messages.

export * from './reading';
export * from './writing';
