#!/usr/bin/env bash
# Shows what `pip install 'keras_digitnet[metal]'` installs on an Apple-silicon Mac, without a Mac.
# Fails if the resolution fails, or contains a TensorFlow that the plugin breaks.
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/venv.sh" --editable '.[dev]'
for version in 3.11 3.12; do
    resolved=$("$python" -m uv pip compile --quiet --no-header --no-annotate --extra metal \
        --python-platform aarch64-apple-darwin --python-version "$version" pyproject.toml)
    echo "Python $version on an Apple-silicon Mac:"
    grep -E '^(keras|numpy|tensorflow|tensorflow-metal)==' <<<"$resolved"
    grep -qE '^tensorflow-metal==1\.' <<<"$resolved"
    grep -qE '^tensorflow==2\.19\.' <<<"$resolved"
done
