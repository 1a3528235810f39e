#!/usr/bin/env bash
# Lints, checks formatting and types, and runs all tests on TensorFlow, and those that depend on the
# backend on JAX and torch too. Arguments are passed to pytest.
#
# --all, as the first argument, also runs the long tests, which take hours.
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
# The same version of torch on every machine. On Linux its default build includes CUDA, several GB;
# PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu selects the small one.
source "$(dirname "${BASH_SOURCE[0]}")/venv.sh" torch==2.13.0 --editable '.[dev,jax,torch,onnx,litert,openvino,serving,demo]'

"$python" -m ruff check .
"$python" -m ruff format --check .
"$python" -m mypy
# Many tests start processes that compile the same steps; this cache halves the time on JAX.
export JAX_COMPILATION_CACHE_DIR=$PWD/.pytest_cache/jax JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0.2
colour=--color=no
[ -t 1 ] && colour=--color=yes # pytest writes to a pipe
log=$(mktemp)
trap 'rm -f "$log"' EXIT
trap 'exit 130' INT # do not continue with the next backend
summary=""
failed=""
for backend in tensorflow jax torch; do
    echo "Tests on $backend"
    marked="backends and ($length)"
    [ "$backend" = tensorflow ] && marked=$length
    # Two processes with one thread each; torch's threads would block each other.
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
