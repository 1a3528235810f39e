#!/usr/bin/env bash
# Installs Triton and MLServer on Linux, without Docker or a GPU, for the tests with real servers:
#
#   ./scripts/serving_env.sh && .venv/bin/python -m pytest tests/test_real_servers.py
#
# Each gets a separate environment in ~/.cache/keras_digitnet (or XDG_CACHE_HOME), 750 MB in total,
# because Triton's Python backend needs numpy 1. Triton is taken from the wheel of nvidia-pytriton,
# which contains no other backend. Installed once; delete the folder to reinstall.
set -euo pipefail

cache=${XDG_CACHE_HOME:-$HOME/.cache}/keras_digitnet

# Triton loads Python as a shared library, which not every Python has.
find_python() {
    local candidate
    for candidate in python3.12 python3.11; do
        if "$candidate" -c 'import ctypes, ensurepip, os, sysconfig
ctypes.CDLL(os.path.join(*sysconfig.get_config_vars("LIBDIR", "INSTSONAME")))' >/dev/null 2>&1; then
            echo "$candidate"
            return
        fi
    done
    echo "Error: expected Python 3.11 or 3.12 with its venv module and shared library on the PATH;" \
        "found none. Install one (Debian: apt install python3-venv libpython3-dev) and run this again." >&2
    return 2
}

# install NAME REQUIREMENT...: creates an environment; its stamp is written last.
install() {
    local folder=$cache/$1 stamp pip
    stamp=$folder/installed-$(printf '%s ' "$@" | cksum | cut -d ' ' -f 1)
    [ ! -f "$stamp" ] || return 0
    echo "Installing $1 into $folder ..." >&2
    rm -rf "$folder"
    "$python" -m venv "$folder"
    pip=("$folder/bin/python" -m pip install --quiet --disable-pip-version-check)
    "${pip[@]}" "${@:2}" >&2
    if [ "$1" = triton ]; then
        # Without the dependencies of its Python package: only the server is used.
        "${pip[@]}" --no-deps nvidia-pytriton==0.7.0 >&2
        arrange_triton "$folder"
    fi
    touch "$stamp"
}

# Copies this Python's stub to the Python backend, and writes bin/tritonserver, which sets the
# library path and starts the server.
arrange_triton() {
    local site server version libraries
    site=$("$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    version=$("$1/bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    libraries=$("$1/bin/python" -c 'import sysconfig; print(sysconfig.get_config_var("LIBDIR"))')
    server=$site/pytriton/tritonserver
    cp "$server/python_backend_stubs/$version/triton_python_backend_stub" "$server/backends/python/"
    cat >"$1/bin/tritonserver" <<END
#!/usr/bin/env bash
# tritonserver on localhost only, with the Python backend; takes the options of tritonserver.
export PATH='$1/bin':\$PATH LD_LIBRARY_PATH='$libraries:$site/nvidia_pytriton.libs'
exec '$server/bin/tritonserver' --backend-directory='$server/backends' \\
    --backend-config=python,stub-timeout-seconds=300 \\
    --http-address=127.0.0.1 --grpc-address=127.0.0.1 --allow-metrics=false "\$@"
END
    chmod +x "$1/bin/tritonserver"
}

python=$(find_python)
install triton 'numpy<2' 'onnxruntime>=1.20'
install mlserver mlserver==1.7.1 'onnxruntime>=1.20'
