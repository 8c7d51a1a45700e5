#!/bin/sh
# Installs LOCK into the virtual environment VENV, made when absent. Usage: install.sh VENV LOCK (runs in an image's build)
# uv comes by its own lock and goes again, so that the layer holds only what was asked for.
set -eu
# Below it is where the Dockerfiles mount what builds share; a uv.toml with a cache-dir of its own goes before it.
export XDG_CACHE_HOME=/var/cache/build
uv=$(mktemp -d)
trap 'rm -rf "$uv"' EXIT
python3 -m venv "$uv"
"$uv/bin/pip" install --quiet --no-cache-dir --disable-pip-version-check --require-hashes -r "$(dirname "$0")/uv.txt"
[ -d "$1" ] || "$uv/bin/uv" venv --quiet --no-managed-python --python "$(command -v python3)" "$1"
# Byte code now, as the root file system is read-only at run; layers are immutable, so no import needs to check it.
export VIRTUAL_ENV="$1" UV_LINK_MODE=copy PYC_INVALIDATION_MODE=UNCHECKED_HASH
"$uv/bin/uv" pip install --no-deps --require-hashes --compile-bytecode -r "$2"
