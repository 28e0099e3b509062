#!/usr/bin/env bash
# Set up what the tests need, then check style, types and behaviour.
# Uses the active virtual environment, or makes .venv. Arguments go to pytest.
#
# Behaviour is that of the built wheel, in a folder without the sources, so that what the package
# forgets to bring along is noticed. `python -m pytest` tests the sources.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ -z "${VIRTUAL_ENV:-}" ]; then
    [ -x .venv/bin/python ] || python3 -m venv .venv
    . .venv/bin/activate
fi
python -m pip install --quiet --editable '.[test,ray,cpu]'

ruff check .
ruff format --check .
mypy

built=$(mktemp -d)
trap 'rm -rf "$built"' EXIT
rm -rf build  # what an earlier version has left there would get into the wheel
python -m pip wheel --quiet --no-deps --wheel-dir "$built/wheel" .
python -m pip install --quiet --no-deps --target "$built/site" "$built"/wheel/*.whl
mkdir "$built/project"
cp -r tests examples README.md pyproject.toml "$built/project"
export SYNTIC_TEST_DATA="${SYNTIC_TEST_DATA:-$PWD/../shared/data}" PYTHONPATH="$built/site"
cd "$built/project"
python -m pytest "$@"
