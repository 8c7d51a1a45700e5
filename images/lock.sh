#!/bin/sh
# Writes every lock of the project, so that tests, operator and worker always run the same versions.
# Usage: images/lock.sh [UV]   (UV: path of uv, else the one on PATH). LOCK_UPGRADE=1 moves to the newest versions.
set -eu
cd "$(dirname "$0")/.."
uv=${1:-uv}

lock() { # OUTPUT ARGUMENTS…: what OUTPUT pins already stays, unless LOCK_UPGRADE is set
    output=$1
    shift
    "$uv" pip compile --quiet --generate-hashes --no-emit-index-url --no-header ${LOCK_UPGRADE:+--upgrade} \
        --python-version 3.11 --python-platform x86_64-manylinux_2_28 --output-file "$output" "$@"
}

lock tests/requirements.txt --all-extras --group dev pyproject.toml
echo uv | lock images/uv.txt -
# The images on AWS's bases have Pythons and versions of their own; torch and numpy are the bases'.
for image in "neuron 3.10" "neuronx 3.12"; do
    folder=images/${image% *}
    "$uv" pip compile --quiet --generate-hashes --no-emit-index-url --no-header --only-binary :all: \
        ${LOCK_UPGRADE:+--upgrade} --python-version "${image#* }" --python-platform x86_64-manylinux_2_28 \
        --no-emit-package numpy --no-emit-package torch --output-file "$folder/requirements.txt" "$folder/requirements.in"
done
LOCK_UPGRADE= # the rest takes its versions from there
all=tests/requirements.txt
# The operator sends its spans over HTTP.
lock images/operator/requirements.txt --constraints "$all" --extra controller --extra tracing \
    --no-emit-package grpcio --no-emit-package opentelemetry-exporter-otlp-proto-grpc pyproject.toml
echo torch | lock images/worker/torch.txt --constraints "$all" -
# What torch.txt holds is in its own layer of the image; `without` keeps it out of the next one.
without=$(sed -n 's/^\([a-z0-9._-]*\)==.*/--no-emit-package \1/p' images/worker/torch.txt)
# shellcheck disable=SC2086  # one word per argument
lock images/worker/requirements.txt --constraints "$all" --extra export --extra serve --extra tracing $without pyproject.toml
