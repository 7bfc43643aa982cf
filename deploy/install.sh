#!/usr/bin/env bash
# Sets up a node: one version of Python and exactly the packages of requirements.lock, every one held against its hash, in
# $STUDY_VENV (default: ~/study-venv). Run on every node of a cluster; does nothing where that is done already.
# `install.sh --fingerprint` prints what it would set up.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${STUDY_VENV:-$HOME/study-venv}
python=3.11.18
fingerprint="Python $python, packages $(cat requirements.lock requirements-uv.lock | sha256sum | cut -c1-16)"
if [ "${1:-}" = --fingerprint ]; then
    echo "$fingerprint"
    exit
fi
if [ -x "$venv/bin/ray" ] && [ "$(cat "$venv.ready" 2>/dev/null)" = "$fingerprint" ]; then
    echo "ready: $fingerprint"
    exit
fi
tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
if ! python3 -m venv "$tools" 2>/dev/null; then # Debian and Ubuntu keep it in a package of its own
    sudo apt-get update -qq && sudo apt-get install -y -qq python3-venv
    python3 -m venv --clear "$tools"
fi
"$tools/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-uv.lock
rm -f "$venv.ready"
"$tools/bin/uv" venv --quiet --clear --managed-python --python "$python" "$venv"
# Compiled now: whoever runs studies may not be allowed to write beside the packages, and every process would compile them anew.
"$tools/bin/uv" pip sync --quiet --compile-bytecode --python "$venv/bin/python" --require-hashes requirements.lock requirements-uv.lock
echo "$fingerprint" >"$venv.ready"
echo "installed: $fingerprint"
