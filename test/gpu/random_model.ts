// Random models of published shapes, made once by bench/gpu/make_model.py and kept in KADENZ_GPU_MODELS (default .cache/gpu).

import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';

export type ModelShape = 'qwen2.5-0.5b' | 'qwen2.5-1.5b' | 'qwen2.5-7b' | 'qwen3-8b';

export function randomModel(shape: ModelShape): string {
  const folder = join(process.env.KADENZ_GPU_MODELS ?? '.cache/gpu', shape);
  if (!existsSync(join(folder, 'model.safetensors'))) {
    execFileSync('python3', ['bench/gpu/make_model.py', shape, folder], { stdio: 'inherit' });
  }
  return folder;
}

/** KADENZ_GPU_SHAPES narrows what a run covers: `qwen2.5-0.5b,qwen3-8b`. */
export function shapesToTest(shapes: ModelShape[]): ModelShape[] {
  const wanted = process.env.KADENZ_GPU_SHAPES?.split(',');
  return wanted === undefined ? shapes : shapes.filter((shape) => wanted.includes(shape));
}
