#!/usr/bin/env bash
# Makes .venv with uv and maturin in it, after looking for what `make` cannot install itself.
# Whatever is missing gets one line; nothing is downloaded or built before all of it is there.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
missing=0

lacks() {
    echo "polmrs needs $1" >&2
    missing=1
}

# older FOUND WANTED: is FOUND the older version?
older() {
    [[ "$1" != "$2" && "$(printf '%s\n' "$1" "$2" | sort -V | head -n 1)" == "$1" ]]
}

wanted=$(sed -n 's/^rust-version = "\([0-9.]*\)".*/\1/p' Cargo.toml)
if ! found=$(cargo --version 2>/dev/null); then
    lacks "cargo >= $wanted, and found none that runs: install Rust, or 'rustup default stable'"
elif older "$(cut -d ' ' -f 2 <<<"$found")" "$wanted"; then
    lacks "cargo >= $wanted, and found $found: 'rustup update stable', or a newer package"
fi

if ! command -v "${CC:-cc}" >/dev/null; then
    lacks "a C compiler and linker, and found no '${CC:-cc}': on Debian 'apt install build-essential'"
fi

if ! found=$("$python" -c 'import platform; print(platform.python_version())' 2>/dev/null); then
    lacks "Python >= 3.11, and '$python' does not run: install it, or name one with 'make PYTHON=...'"
elif older "$found" 3.11; then
    lacks "Python >= 3.11, and '$python' is $found: name a newer one with 'make PYTHON=python3.12'"
elif "$python" -c 'import venv, ensurepip; ensurepip.version()' 2>/dev/null; then
    make_venv() { "$python" -m venv --clear .venv && .venv/bin/python -m pip install "$@"; }
elif command -v uv >/dev/null; then
    make_venv() { uv venv --quiet --clear --python "$python" .venv && uv pip install --python .venv/bin/python "$@"; }
elif "$python" -m pip --version >/dev/null 2>&1; then
    make_venv() { "$python" -m venv --clear --without-pip .venv && "$python" -m pip --python .venv/bin/python install "$@"; }
else
    lacks "the module ensurepip of '$python', which Debian packs apart: 'apt install python3-venv'"
fi

((missing == 0)) || exit 1
export PIP_DISABLE_PIP_VERSION_CHECK=1
make_venv --quiet --constraint constraints.txt uv maturin || {
    echo "polmrs: .venv could not be made; the first run needs a package index (the network, or a mirror that pip knows)" >&2
    exit 1
}
