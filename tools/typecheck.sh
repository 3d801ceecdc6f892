#!/usr/bin/env bash
# mypy over the package, the tests and the tools. mypy does not follow an editable install's import hook, so the three
# folders of the package are first laid out, as links, the way they are installed: build/typecheck/diffgdn/{strategies,...}.
# Beside it tests/ and tools/, as packages without __init__: files of one name in several folders are several modules.
#   tools/typecheck.sh [mypy options]
set -euo pipefail
cd "$(dirname "$0")/.."
python=${VENV_PYTHON:-.venv/bin/python}
view=build/typecheck/diffgdn

rm -rf build/typecheck
mkdir -p "$view"
for entry in "$PWD"/diffgdn/*; do ln -s "$entry" "$view/"; done
for folder in strategies kernels; do ln -s "$PWD/$folder" "$view/$folder"; done
for folder in tests tools; do ln -s "$PWD/$folder" "build/typecheck/$folder"; done

# the paths as the reader knows them
MYPYPATH=build/typecheck "$python" -m mypy -p diffgdn -p tests -p tools "$@" |
  sed -E -e 's#^build/typecheck/diffgdn/(strategies|kernels)/#\1/#' -e 's#^build/typecheck/##'
