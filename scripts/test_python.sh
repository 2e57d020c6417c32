#!/usr/bin/env bash
# Runs the Python tests on dist/, in a virtual environment of their own. Arguments go to pytest: scripts/test_python.sh -k mistral
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/python_environment.sh

if [ -z "${KADENZ_CLI:-}" ] && [ ! -f dist/cli/main.js ]; then
  echo 'test_python: dist/cli/main.js is not there: run `npm run build` first' >&2
  exit 1
fi

export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false PYTHONDONTWRITEBYTECODE=1
exec .venv-python/bin/python -m pytest -c python/pyproject.toml python/tests -p no:cacheprovider "$@"
