#!/usr/bin/env bash
# mypy over the whole package. mypy does not follow an editable install's import hook, so the three folders are first laid
# out, as links, the way they are installed: build/typecheck/diffgdn/{strategies,kernels,...}.
#   tools/typecheck.sh [mypy options]
set -euo pipefail
cd "$(dirname "$0")/.."
python=${VENV_PYTHON:-.venv/bin/python}
view=build/typecheck/diffgdn

rm -rf "$view"
mkdir -p "$view"
for entry in "$PWD"/diffgdn/*; do ln -s "$entry" "$view/"; done
for folder in strategies kernels; do ln -s "$PWD/$folder" "$view/$folder"; done

# the paths as the reader knows them
MYPYPATH=build/typecheck "$python" -m mypy -p diffgdn "$@" |
  sed -E -e 's#^build/typecheck/diffgdn/(strategies|kernels)/#\1/#' -e 's#^build/typecheck/##'
