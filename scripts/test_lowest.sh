#!/usr/bin/env bash
# Installs the lowest versions that pyproject.toml allows, on the lowest Python, and runs the short
# tests on TensorFlow, to find lower bounds that are too low. Arguments are passed to pytest.
#
# Omitted are torch, whose lowest version scripts/test.sh uses, and the tests that start one process
# per case, which would take longer than all others and import nothing more.
# KERAS_DIGITNET_DATA=PATH names real MNIST for the tests that need it; without it they are skipped.
set -euo pipefail

if [ -n "${KERAS_DIGITNET_DATA:-}" ]; then
    KERAS_DIGITNET_DATA=$(realpath "$KERAS_DIGITNET_DATA")
    export KERAS_DIGITNET_DATA
fi
source "$(dirname "${BASH_SOURCE[0]}")/venv.sh" uv

# Recreated each time, so that no newer versions remain.
"$python" -m uv venv --quiet --clear --python 3.11 .venv-lowest
"$python" -m uv pip install --python .venv-lowest --resolution lowest-direct \
    --editable '.[dev,jax,onnx,litert,openvino,serving,demo]'

ignored=()
for name in bad_input cli scripts training wheel; do
    ignored+=(--ignore "tests/test_$name.py")
done
KERAS_BACKEND=tensorflow OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest -n 2 --dist loadgroup \
    --durations 5 -m 'not long' "${ignored[@]}" "$@"
