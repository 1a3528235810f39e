#!/usr/bin/env bash
# Installs the lowest versions that pyproject.toml allows, on the lowest Python, and runs the short
# tests on TensorFlow: a bound that is too low fails here. Its arguments go to pytest.
#
# Left out are torch, whose lowest version is the one that scripts/test.sh runs on, and the tests that
# start a process a case, which would take longer than all others and import nothing more.
# KERAS_DIGITNET_DATA=PATH names real MNIST for the tests that need it; without it they are skipped.
set -euo pipefail

if [ -n "${KERAS_DIGITNET_DATA:-}" ]; then
    KERAS_DIGITNET_DATA=$(realpath "$KERAS_DIGITNET_DATA")
    export KERAS_DIGITNET_DATA
fi
source "$(dirname "${BASH_SOURCE[0]}")/venv.sh" uv

# Made anew each time: nothing newer is left in it.
"$python" -m uv venv --quiet --clear --python 3.11 .venv-lowest
"$python" -m uv pip install --python .venv-lowest --resolution lowest-direct \
    --editable '.[dev,jax,onnx,litert,openvino,serving,demo]'

ignored=()
for name in bad_input cli scripts training wheel; do
    ignored+=(--ignore "tests/test_$name.py")
done
KERAS_BACKEND=tensorflow OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest -n 2 --dist loadgroup \
    --durations 5 -m 'not long' "${ignored[@]}" "$@"
