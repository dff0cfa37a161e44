# Sourced by tests/suites/run, after tests/apps/install.sh.

# `install_suites ROOT TEST…`: what these tests need. Sets SUITES_PYTHON.
install_suites() {
    local root="$1"
    shift
    local missing=()
    suites_need node nodejs
    if [[ " $* " == *" test_garden "* ]]; then
        suites_need nginx nginx-light
        # The server without its service, which would start at once.
        suites_need apache2 apache2-bin
    fi
    if [[ " $* " == *" test_long_slow "* ]]; then suites_need slowhttptest slowhttptest; fi
    if [[ " $* " == *" test_long_tls "* ]]; then
        suites_need testssl testssl.sh
        suites_need hexdump bsdextrautils
        suites_need host bind9-host
    fi
    if ((${#missing[@]} > 0)); then
        echo "suites: installing ${missing[*]}"
        export DEBIAN_FRONTEND=noninteractive
        suites_as_root apt-get update -qq
        suites_as_root apt-get install -y -qq --no-install-recommends "${missing[@]}"
    fi
    local venv="$root/target/suites/venv"
    local wanted="$root/tests/suites/requirements.txt"
    SUITES_PYTHON="$venv/bin/python"
    if cmp -s "$wanted" "$venv/installed.txt"; then
        return
    fi
    echo "suites: installing gunicorn, h2 and sslyze into target/suites/venv"
    rm -rf "$venv"
    python3 -m venv "$venv" 2>/dev/null || install_python_venv "$venv"
    "$SUITES_PYTHON" -m pip install --quiet --disable-pip-version-check -r "$wanted"
    cp "$wanted" "$venv/installed.txt"
}

suites_need() {
    if ! command -v "$1" >/dev/null; then missing+=("$2"); fi
}

suites_as_root() {
    if ((EUID == 0)); then "$@"; else sudo "$@"; fi
}
