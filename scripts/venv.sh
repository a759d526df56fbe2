#!/bin/sh
# Create .venv with the given Python (3.11 or newer).
set -eu
python=${1:-python3}

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "qsm-node needs Python 3.11 or newer, but '$python' is: $("$python" --version 2>&1 || true)" >&2
    echo "Name another one, for example: make demo PYTHON=python3.12" >&2
    exit 1
fi

# Debian ships venv without ensurepip unless the -venv package is there.
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    "$(dirname "$0")/apt-install.sh" "A virtual environment" "python$version-venv"
fi
"$python" -m venv .venv || { rm -rf .venv; exit 1; }
