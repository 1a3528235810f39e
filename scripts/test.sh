#!/usr/bin/env bash
# Lints, checks formats and types, and runs the tests: on TensorFlow, and those that depend
# on the backend on JAX and torch too. Its arguments go to pytest.
#
# --all, as the first argument, runs the long forms as well: more cases of the same promises, for hours.
# KERAS_DIGITNET_DATA=PATH names real MNIST for the tests that need it; without it they are skipped.
set -euo pipefail

length="not long"
if [ "${1:-}" = --all ]; then
    length="long or not long"
    shift
fi
if [ -n "${KERAS_DIGITNET_DATA:-}" ]; then
    KERAS_DIGITNET_DATA=$(realpath "$KERAS_DIGITNET_DATA")
    export KERAS_DIGITNET_DATA
fi
# One version of torch for every machine. On Linux its default build brings CUDA, several GB;
# PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu takes the small one.
source "$(dirname "${BASH_SOURCE[0]}")/venv.sh" torch==2.13.0 --editable '.[dev,jax,torch,onnx,litert,openvino,serving,demo]'

"$python" -m ruff check .
"$python" -m ruff format --check .
"$python" -m mypy
# Many tests are processes that compile the same steps; this cache halves JAX's time.
export JAX_COMPILATION_CACHE_DIR=$PWD/.pytest_cache/jax JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0.2
colour=--color=no
[ -t 1 ] && colour=--color=yes # though pytest writes into a pipe
log=$(mktemp)
trap 'rm -f "$log"' EXIT
trap 'exit 130' INT # not on to the next backend
summary=""
failed=""
for backend in tensorflow jax torch; do
    echo "Tests on $backend"
    marked="backends and ($length)"
    [ "$backend" = tensorflow ] && marked=$length
    # Two processes with a thread each; torch's threads would wait for each other.
    code=0
    KERAS_BACKEND=$backend OMP_NUM_THREADS=1 "$python" -m pytest -n 2 --dist loadgroup --durations 5 \
        $colour -m "$marked" "$@" | tee "$log" || code=${PIPESTATUS[0]}
    case $code:$backend in
        0:* | 5:jax | 5:torch) ;; # 5: the arguments select none of these
        *) failed+=" $backend" ;;
    esac
    summary+="$backend: $(tail -n 1 "$log")"$'\n'
done
printf '\n%s' "$summary"
if [ -n "$failed" ]; then
    echo "Error: expected every test to pass; some failed on:$failed." >&2
    exit 1
fi
