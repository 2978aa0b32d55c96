#!/usr/bin/env bash
# Writes constraints.txt (all that `make` installs into .venv) and peers/*.txt (all that each peer needs) anew, with the
# newest versions for every Python from 3.11 on. Peers share the versions of .venv where they can, so that uv's cache
# holds one torch.
set -euo pipefail
cd "$(dirname "$0")/.."
trap 'rm -f constraints.new peers/*.new' EXIT

resolve() {
    .venv/bin/uv pip compile --quiet --universal --python-version 3.11 --upgrade --no-annotate --no-header "$@"
}

{
    echo "# The exact versions that make installs. Written by \`make lock\`."
    resolve --all-extras pyproject.toml - <<<$'uv\nmaturin>=1.16,<2'
} >constraints.new
mv constraints.new constraints.txt

for peer in peers/*.txt; do
    wanted=$(sed -n '1s/^# \([^,]*\),.*/\1/p' "$peer") # the peer, and what else its environment must hold
    {
        echo "# $wanted, and all that it needs. Written by \`make lock\`."
        resolve --constraint constraints.txt - <<<"${wanted// /$'\n'}" 2>/dev/null ||
            resolve - <<<"${wanted// /$'\n'}" # verl wants an older transformers
    } >"$peer.new"
    mv "$peer.new" "$peer"
done
