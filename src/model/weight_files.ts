// Which files of a model directory hold its weights: model.safetensors, or the shards that model.safetensors.index.json
// names. A shard's name must be a plain file name, so that no index leads out of the directory.

import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { KadenzError } from '../errors.js';
import { isObject, readJsonFile } from './json_file.js';
import { readSafetensorsHeader, type SafetensorsFile } from './safetensors.js';

const SINGLE_FILE = 'model.safetensors';
const INDEX_FILE = 'model.safetensors.index.json';
const MAX_SHARDS = 10_000;

export function readWeightFiles(directory: string): SafetensorsFile[] {
  const single = join(directory, SINGLE_FILE);
  if (existsSync(single)) return [readSafetensorsHeader(single)];
  const indexPath = join(directory, INDEX_FILE);
  const index = readJsonFile(indexPath, 'invalid_safetensors');
  if (index === null) {
    throw new KadenzError('model_not_found', `${directory} has neither ${SINGLE_FILE} nor ${INDEX_FILE}.`, {
      path: directory,
    });
  }
  const weightMap = readWeightMap(index.weight_map, indexPath);
  const names = [...new Set(weightMap.values())].sort();
  if (names.length > MAX_SHARDS) {
    throw new KadenzError(
      'invalid_safetensors',
      `${indexPath} names ${names.length} files; at most ${MAX_SHARDS} are read.`,
      {
        path: indexPath,
        value: names.length,
        limit: MAX_SHARDS,
      },
    );
  }
  const files = names.map((name) => readSafetensorsHeader(join(directory, name)));
  checkAgainstMap(weightMap, new Map(names.map((name, i) => [name, files[i]!])), indexPath);
  return files;
}

function readWeightMap(value: unknown, indexPath: string): Map<string, string> {
  if (!isObject(value) || Object.keys(value).length === 0) {
    throw new KadenzError('invalid_safetensors', `${indexPath} has no weight_map.`, { path: indexPath });
  }
  const map = new Map<string, string>();
  for (const [tensor, file] of Object.entries(value)) {
    if (typeof file !== 'string' || !/^[^/\\\0]+\.safetensors$/.test(file)) {
      throw new KadenzError(
        'invalid_safetensors',
        `${indexPath} puts tensor ${tensor} into ${JSON.stringify(file)}; it must be the plain name of a .safetensors file beside it.`,
        { path: indexPath, tensor, value: file },
      );
    }
    map.set(tensor, file);
  }
  return map;
}

/** Each tensor must be in the file that the index says, and nowhere else. */
function checkAgainstMap(
  map: Map<string, string>,
  files: Map<string, SafetensorsFile>,
  indexPath: string,
): void {
  const found = new Map<string, string>();
  for (const [file, { tensors }] of files) {
    for (const { name } of tensors) {
      const other = found.get(name);
      if (other !== undefined) {
        throw new KadenzError('duplicate_tensor', `Tensor ${name} is both in ${other} and in ${file}.`, {
          tensor: name,
        });
      }
      found.set(name, file);
    }
  }
  for (const [tensor, file] of map) {
    if (found.get(tensor) === file) continue;
    throw new KadenzError(
      'missing_tensor',
      `${indexPath} puts tensor ${tensor} into ${file}, which does not hold it.`,
      {
        path: indexPath,
        tensor,
      },
    );
  }
}
