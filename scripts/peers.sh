#!/usr/bin/env bash
# Reads the pictures in the folders of FOLDER with PP-OCRv4 and Tesseract: see peers_worker.py.
#
#   ./scripts/peers.sh FOLDER >answers.json
#
# Tesseract must be installed. PP-OCRv4 and its models are installed into a separate environment in
# ~/.cache/keras_digitnet (or XDG_CACHE_HOME), 400 MB; delete the folder to reinstall.
# CI has neither of them: the tests use a substitute.
set -euo pipefail

wheel=rapidocr-onnxruntime==1.4.4
scripts=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
folder=${XDG_CACHE_HOME:-$HOME/.cache}/keras_digitnet/peers

if ! type tesseract >/dev/null 2>&1; then
    echo "Error: expected tesseract on the PATH; found none." \
        "Install it (Debian: apt install tesseract-ocr) and run this again." >&2
    exit 2
fi

# The newest Python that the wheel supports.
find_python() {
    local candidate
    for candidate in python3.12 python3.11; do
        if "$candidate" -c 'import ensurepip, venv' >/dev/null 2>&1; then
            echo "$candidate"
            return
        fi
    done
    echo "Error: expected Python 3.11 or 3.12 with its venv module on the PATH; found none." \
        "Install one (Debian: apt install python3-venv) and run this again." >&2
    return 2
}

stamp=$folder/installed-$(cksum <<<"$wheel" | cut -d ' ' -f 1)
if [ ! -f "$stamp" ]; then
    base=$(find_python)
    echo "Installing $wheel into $folder ..." >&2
    rm -rf "$folder"
    "$base" -m venv "$folder"
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check "$wheel" >&2
    touch "$stamp"
fi
exec "$folder/bin/python" "$scripts/peers_worker.py" "$1"
