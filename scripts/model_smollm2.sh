#!/usr/bin/env bash
# Makes .cache/smollm2 (a Hugging Face directory, float16) and .cache/smollm2-f16.gguf of the same weights, for npm run bench:cpu.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/python_environment.sh
PYTHONPATH=python .venv-python/bin/python -m kadenz_tools.convert_smollm2 --output .cache/smollm2 --gguf .cache/smollm2-f16.gguf
