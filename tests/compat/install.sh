# Sourced by tests/compat/run, after tests/apps/install.sh.

# `install_compat ROOT`: installs what is missing. Sets COMPAT_PYTHON and CHROMIUM.
install_compat() {
    local root="$1"
    local missing=()
    compat_need curl curl
    compat_need node nodejs
    compat_need nginx nginx-light
    if [[ -z "${CHROMIUM:-}" ]]; then compat_need chromium chromium; fi
    if ((${#missing[@]} > 0)); then
        echo "compat: installing ${missing[*]}"
        export DEBIAN_FRONTEND=noninteractive
        compat_as_root apt-get update -qq
        compat_as_root apt-get install -y -qq --no-install-recommends "${missing[@]}"
    fi
    export CHROMIUM="${CHROMIUM:-chromium}"
    local venv="$root/target/compat/venv"
    local wanted="$root/tests/compat/requirements.txt"
    COMPAT_PYTHON="$venv/bin/python"
    if cmp -s "$wanted" "$venv/installed.txt"; then
        return
    fi
    echo "compat: installing grpcio, gunicorn, httpx and requests into target/compat/venv"
    rm -rf "$venv"
    python3 -m venv "$venv" 2>/dev/null || install_python_venv "$venv"
    "$COMPAT_PYTHON" -m pip install --quiet --disable-pip-version-check -r "$wanted"
    cp "$wanted" "$venv/installed.txt"
}

compat_need() {
    if ! command -v "$1" >/dev/null; then missing+=("$2"); fi
}

compat_as_root() {
    if ((EUID == 0)); then "$@"; else sudo "$@"; fi
}
