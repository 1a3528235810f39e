#!/usr/bin/env bash
# Trains DigitNet: creates .venv if it is missing, then runs `keras-digitnet train` with its
# arguments, in the current folder.
set -euo pipefail

here=$PWD
source "$(dirname "${BASH_SOURCE[0]}")/venv.sh" --editable .
command=$PWD/.venv/bin/keras-digitnet
cd "$here"
exec "$command" train "$@"
