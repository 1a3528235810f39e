# Sourced by the other scripts: changes to the checkout, prepares its .venv and sets $python.
# Usage: source scripts/venv.sh REQUIREMENT...
#
# The environment is created once, with the newest working Python 3.11-3.13, and updated when
# pyproject.toml or the requirements change.

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
python=.venv/bin/python

find_python() {
    local candidate
    for candidate in python3.13 python3.12 python3.11 python3 python; do
        # A command on the PATH may be a stub, another version, or lack venv, so run it.
        if "$candidate" -c 'import ensurepip, sys, venv
sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1; then
            echo "$candidate"
            return
        fi
    done
    return 1
}

if ! "$python" -c 'import pip' >/dev/null 2>&1; then
    if ! base=$(find_python); then
        echo "Error: expected Python 3.11, 3.12 or 3.13 with its venv module on the PATH;" \
            "found none. Install one (Debian: apt install python3-venv) and run this again." >&2
        exit 2
    fi
    echo "Creating .venv with $("$base" --version) ..." >&2
    rm -rf .venv
    "$base" -m venv .venv
fi

# Shows pip's progress on a terminal, and one line per downloaded package elsewhere.
pip_install() {
    local arguments=(-m pip install --disable-pip-version-check "$@") line
    if [ -t 2 ]; then
        "$python" "${arguments[@]}" >&2
        return
    fi
    "$python" "${arguments[@]}" --progress-bar off | while read -r line; do
        case $line in
            *.metadata*) ;;
            Collecting\ * | Downloading\ * | Using\ cached\ *) echo "${line%% (from *}" ;;
            Installing\ collected*) echo "Installing them; a minute or two ..." ;;
        esac
    done >&2
    return "${PIPESTATUS[0]}"
}

stamp=.venv/installed-$(printf '%s ' "$@" | cksum | cut -d ' ' -f 1)
if [ ! -f "$stamp" ] || [ pyproject.toml -nt "$stamp" ]; then
    echo "Installing keras_digitnet into .venv (once; a few minutes) ..." >&2
    pip_install "$@"
    touch "$stamp"
fi
