#!/usr/bin/env bash
# Writes constraints.txt (all that `make` installs into .venv, and every extra) and peers/*.txt (all that each peer needs) anew,
# with the newest versions for every Python from 3.11 on. Peers share the versions of .venv where they can, so that uv's cache
# holds one torch. `--keep` changes no version: it only adds what pyproject.toml or a peer asks for now.
set -euo pipefail
cd "$(dirname "$0")/.."
trap 'rm -f constraints.txt.new peers/*.new' EXIT
keep=${1:-}

# FILE ARGUMENT...: FILE.new, with what stdin and the arguments ask for.
resolve() {
    local file=$1 how=--upgrade
    shift
    [[ $keep != --keep ]] || how=--constraint=$file
    .venv/bin/uv pip compile --quiet --universal --python-version 3.11 "$how" --no-annotate --no-header "$@" >"$file.new"
}

# FILE LINE: FILE.new takes its place, under a line that says what it is.
place() {
    sed -i "1i # $2 Written by \`make lock\`." "$1.new"
    mv "$1.new" "$1"
}

resolve constraints.txt --all-extras pyproject.toml - <<<$'uv\nmaturin>=1.16,<2'
place constraints.txt 'The exact versions that make installs.'

for peer in peers/*.txt; do
    wanted=$(sed -n '1s/^# \([^,]*\),.*/\1/p' "$peer") # the peer, and what else its environment must hold
    resolve "$peer" --constraint constraints.txt - <<<"${wanted// /$'\n'}" 2>/dev/null ||
        resolve "$peer" - <<<"${wanted// /$'\n'}" # verl wants an older transformers
    place "$peer" "$wanted, and all that it needs."
done
