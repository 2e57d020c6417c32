// Typed reading of config.json. Each field that is asked for is known; refuseTheRest() then refuses, by name, every field
// that nobody asked for: it might change what the model computes, and this is never guessed.

import { KadenzError } from '../errors.js';
import { isObject, type JsonObject } from './json_file.js';

export class ConfigFields {
  readonly #object: JsonObject;
  readonly #path: string;
  readonly #known = new Set<string>();

  /** @param path names the object in errors: `config.json`, `config.json: rope_scaling` */
  constructor(object: JsonObject, path: string) {
    this.#object = object;
    this.#path = path;
  }

  /** The value, undefined when absent or null. */
  value(name: string): unknown {
    this.#known.add(name);
    return this.#object[name] ?? undefined;
  }

  isNull(name: string): boolean {
    return this.#object[name] === null;
  }

  /** These may stand there with any value: they don't change what the model computes. */
  ignore(names: readonly string[]): void {
    for (const name of names) this.#known.add(name);
  }

  integer(
    name: string,
    { least, most, otherwise }: { least: number; most: number; otherwise?: number },
  ): number {
    const value = this.value(name) ?? otherwise;
    if (value === undefined) return this.#missing(name);
    if (typeof value === 'number' && Number.isSafeInteger(value) && value >= least && value <= most)
      return value;
    return this.invalid(name, value, `an integer from ${least} to ${most}`);
  }

  /** Finite, more than `over`. */
  number(name: string, { over, otherwise }: { over: number; otherwise?: number }): number {
    const value = this.value(name) ?? otherwise;
    if (value === undefined) return this.#missing(name);
    if (typeof value === 'number' && Number.isFinite(value) && value > over) return value;
    return this.invalid(name, value, `a finite number greater than ${over}`);
  }

  boolean(name: string, otherwise: boolean): boolean {
    const value = this.value(name) ?? otherwise;
    return typeof value === 'boolean' ? value : this.invalid(name, value, 'true or false');
  }

  string(name: string, otherwise?: string): string {
    const value = this.value(name) ?? otherwise;
    if (value === undefined) return this.#missing(name);
    return typeof value === 'string' ? value : this.invalid(name, value, 'a string');
  }

  /** A field inside which there are others; null when absent. */
  object(name: string): ConfigFields | null {
    const value = this.value(name);
    if (value === undefined) return null;
    return isObject(value)
      ? new ConfigFields(value, `${this.#path}: ${name}`)
      : this.invalid(name, value, 'an object');
  }

  /** The model is supported only where the field is absent, null or one of these values. */
  only(name: string, values: readonly unknown[]): void {
    const value = this.value(name);
    if (value === undefined || values.includes(value)) return;
    this.unsupported(
      name,
      value,
      `Kadenz supports ${values.map((allowed) => JSON.stringify(allowed)).join(' or ')}`,
    );
  }

  invalid(name: string, value: unknown, rule: string): never {
    throw new KadenzError(
      'invalid_model_config',
      `${this.#path}: ${name} is ${show(value)}; it must be ${rule}.`,
      {
        field: name,
        value,
      },
    );
  }

  unsupported(name: string, value: unknown, reason: string): never {
    throw new KadenzError('unsupported_config', `${this.#path}: ${name} is ${show(value)}; ${reason}.`, {
      field: name,
      value,
    });
  }

  refuseTheRest(): void {
    for (const [name, value] of Object.entries(this.#object)) {
      if (this.#known.has(name) || value === null) continue;
      throw new KadenzError(
        'unsupported_config',
        `${this.#path} has the field ${name} = ${show(value)}, which Kadenz does not know. It might change what the model ` +
          'computes, so the model is not loaded. If it has no such meaning, remove the field.',
        { field: name, value },
      );
    }
  }

  #missing(name: string): never {
    throw new KadenzError('invalid_model_config', `${this.#path} has no ${name}.`, { field: name });
  }
}

function show(value: unknown): string {
  const text = JSON.stringify(value) ?? String(value);
  return text.length <= 80 ? text : `${text.slice(0, 77)}...`;
}
