#!/usr/bin/env bash
# Set up what the tests need, then check style, types and behaviour.
# Uses the active virtual environment, or makes .venv. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ -z "${VIRTUAL_ENV:-}" ]; then
    [ -x .venv/bin/python ] || python3 -m venv .venv
    . .venv/bin/activate
fi
python -m pip install --quiet --editable '.[test,ray]'

ruff check .
ruff format --check .
mypy
python -m pytest "$@"
