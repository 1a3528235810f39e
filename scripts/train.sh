#!/usr/bin/env bash
# Trains DigitNet: makes .venv where it is missing, then passes its arguments to
# `keras-digitnet train`. Relative paths among them start from the folder you are in.
set -euo pipefail

here=$PWD
source "$(dirname "${BASH_SOURCE[0]}")/venv.sh" --editable .
command=$PWD/.venv/bin/keras-digitnet
cd "$here"
exec "$command" train "$@"
