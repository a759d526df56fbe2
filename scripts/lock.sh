#!/bin/sh
# Renew the lock: requirements/{test,run,build}.txt with the newest versions that pyproject.toml allows,
# valid for every platform and Python, with hashes and without the address of an index.
set -eu
cd "$(dirname "$0")/.."
.venv/bin/python -m pip --disable-pip-version-check --quiet install "uv>=0.8"

compile() {
    .venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
        --custom-compile-command "make lock" "$@"
}
compile --upgrade pyproject.toml --group test --group build --output-file requirements/test.txt
compile --upgrade pyproject.toml --constraints requirements/test.txt --output-file requirements/run.txt
compile --upgrade --group build --constraints requirements/test.txt --output-file requirements/build.txt
