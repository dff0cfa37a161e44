# Sourced by tests/apps/run and tests/browser/run: one venv serves both.

# Nothing beside the sources is ever written.
export PYTHONDONTWRITEBYTECODE=1

# Sets APPS_PYTHON. The stamp is written last, so that a broken-off install is done again.
install_apps() {
    local root="$1"
    local venv="$root/target/apps/venv"
    local wanted="$root/tests/apps/requirements.txt"
    APPS_PYTHON="$venv/bin/python"
    export APPS_PYTHON
    if cmp -s "$wanted" "$venv/installed.txt"; then
        return
    fi
    echo "apps: installing Radicale and OctoPrint into target/apps/venv"
    rm -rf "$venv"
    python3 -m venv "$venv" 2>/dev/null || install_python_venv "$venv"
    "$APPS_PYTHON" -m pip install --quiet --disable-pip-version-check -r "$wanted"
    cp "$wanted" "$venv/installed.txt"
}

# Debian ships Python without its venv module.
install_python_venv() {
    apt-get update -qq
    apt-get install -y -qq python3-venv python3-dev gcc
    rm -rf "$1"
    python3 -m venv "$1"
}

# Sets DOORWARD_BIN to an absolute path, building the gateway when nothing is named.
find_gateway() {
    local root="$1"
    if [[ -z "${DOORWARD_BIN:-}" ]]; then
        echo "gateway: building target/debug/doorward"
        (cd "$root" && cargo build --quiet --bin doorward)
        DOORWARD_BIN="$root/target/debug/doorward"
    fi
    DOORWARD_BIN="$(realpath "$DOORWARD_BIN")"
    export DOORWARD_BIN
    if [[ ! -x "$DOORWARD_BIN" ]]; then
        echo "gateway: no program at $DOORWARD_BIN" >&2
        exit 1
    fi
}
