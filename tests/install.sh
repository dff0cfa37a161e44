# Sourced by the run scripts of tests/ and benches/. Installs their dependencies.

# Python writes no bytecode files into the source tree.
export PYTHONDONTWRITEBYTECODE=1

as_root() {
    if ((EUID == 0)); then "$@"; else sudo "$@"; fi
}

# `need COMMAND PACKAGE…`: requests Debian packages if a command is missing.
missing=()
need() {
    if ! command -v "$1" >/dev/null; then missing+=("${@:2}"); fi
}

# Requests Chromium unless CHROMIUM names a program. Sets CHROMIUM.
need_chromium() {
    CHROMIUM="${CHROMIUM:-$(command -v chromium || echo /usr/bin/chromium)}"
    export CHROMIUM
    need "$CHROMIUM" chromium
}

# Installs the requested packages. Fails if apt-get fails.
install_packages() {
    if ((${#missing[@]} == 0)); then return; fi
    echo "installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    as_root apt-get update -qq
    as_root apt-get install -y -qq --no-install-recommends "${missing[@]}"
    missing=()
}

# `install_venv ROOT NAME`: installs tests/NAME/requirements.txt into target/NAME/venv. Sets PYTHON.
# The copy of the requirements is written last, so an interrupted installation is repeated.
install_venv() {
    local venv="$1/target/$2/venv" requirements="$1/tests/$2/requirements.txt"
    export PYTHON="$venv/bin/python"
    if cmp -s "$requirements" "$venv/installed.txt"; then return; fi
    echo "$2: installing $(grep -c '^[a-z]' "$requirements") Python packages into target/$2/venv"
    rm -rf "$venv"
    python3 -m venv "$venv" 2>/dev/null || create_venv_with_packages "$venv"
    "$PYTHON" -m pip install --quiet --disable-pip-version-check -r "$requirements"
    cp "$requirements" "$venv/installed.txt"
}

# Debian ships Python without its venv module.
create_venv_with_packages() {
    missing+=(python3-venv python3-dev gcc)
    install_packages
    rm -rf "$1"
    python3 -m venv "$1"
}

# `install_npm ROOT NAME`: installs tests/NAME/package-lock.json into target/NAME, outside the source tree, so that
# tests/ contains no generated files. Sets NPM_PACKAGES.
install_npm() {
    local here="$1/tests/$2"
    export NPM_PACKAGES="$1/target/$2"
    if cmp -s "$here/package-lock.json" "$NPM_PACKAGES/installed.json"; then return; fi
    echo "$2: installing npm packages into target/$2"
    mkdir -p "$NPM_PACKAGES"
    cp "$here/package.json" "$here/package-lock.json" "$NPM_PACKAGES/"
    (cd "$NPM_PACKAGES" && npm ci --silent --no-audit --no-fund)
    cp "$here/package-lock.json" "$NPM_PACKAGES/installed.json"
}

# `find_gateway ROOT`: sets DOORWARD_BIN to an absolute path. Builds the gateway if the variable is not set.
find_gateway() {
    if [[ -z "${DOORWARD_BIN:-}" ]]; then
        echo "gateway: building target/debug/doorward"
        (cd "$1" && cargo build --quiet --bin doorward)
        DOORWARD_BIN="$1/target/debug/doorward"
    fi
    DOORWARD_BIN="$(realpath "$DOORWARD_BIN")"
    export DOORWARD_BIN
    if [[ ! -x "$DOORWARD_BIN" ]]; then
        echo "gateway: no program at $DOORWARD_BIN" >&2
        exit 1
    fi
}
