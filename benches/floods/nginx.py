"""Runs plain nginx instead of the gateway: a TLS proxy of the same apps without authentication."""

import contextlib
import dataclasses
import pathlib
import socket
import subprocess
import tempfile
import time

# Floods that apply to nginx. It has no logins, no session cookies and no limit per network.
NAMES = [
    "slow-heads",
    "slow-bodies",
    "slow-reading",
    "rapid-reset",
    "made-you-reset",
    "continuation",
    "empty-data",
    "pings",
    "settings",
    "handshakes",
    "one-network",
]
TIMEOUT_SECONDS = 20

CONFIG = """
worker_processes auto;
worker_rlimit_nofile 20000;
daemon off;
pid nginx.pid;
error_log error.log crit;
events {{ worker_connections 16000; }}
http {{
    access_log off;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi; scgi_temp_path scgi;
    ssl_certificate cert.pem;
    ssl_certificate_key key.pem;
    ssl_protocols TLSv1.3;
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_set_header Host $http_host;
    # Bodies are streamed, as doorward does.
    proxy_buffering off;
    proxy_request_buffering off;
    {upstreams}
    {servers}
}}
"""
UPSTREAM = "upstream app{number} {{ server {at}; keepalive 64; }}"
SERVER = """
    server {{
        listen 127.0.0.1:{port} ssl http2 {options};
        server_name {host};
        location / {{ proxy_pass http://app{number}; }}
    }}
"""


@dataclasses.dataclass(frozen=True)
class NginxProxy:
    port: int
    home: pathlib.Path
    pids: list[int]

    def log_in(self, _host: str) -> str:
        return "session=1"


@contextlib.contextmanager
def start_nginx(routes, _limits: str):
    with tempfile.TemporaryDirectory(prefix="floods-") as folder:
        home = pathlib.Path(folder)
        certificate(home, [route.host for route in routes])
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
        (home / "nginx.conf").write_text(configuration(port, routes))
        argv = ["nginx", "-p", folder, "-c", "nginx.conf", "-e", "error.log"]
        process = subprocess.Popen(argv)
        try:
            wait_for_port(port)
            yield NginxProxy(port, home, with_children(process.pid))
        finally:
            process.terminate()
            process.wait()


def with_children(pid: int) -> list[int]:
    """Returns the process and its children, because nginx serves requests in child processes."""
    children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *map(int, children)]


def configuration(port: int, routes) -> str:
    upstreams, servers = [], []
    for number, route in enumerate(routes):
        at = route.upstream.removeprefix("http://")
        options = "reuseport backlog=4096" if number == 0 else ""
        upstreams.append(UPSTREAM.format(number=number, at=at))
        servers.append(SERVER.format(port=port, options=options, host=route.host, number=number))
    return CONFIG.format(upstreams="\n".join(upstreams), servers="\n".join(servers))


def certificate(home: pathlib.Path, hosts: list[str]) -> None:
    names = ",".join(f"DNS:{host}" for host in hosts)
    (home / "certs").mkdir()
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", home / "key.pem"]
    options = ["-subj", "/CN=floods", "-addext", f"subjectAltName={names}", "-days", "2", "-out", home / "cert.pem"]
    subprocess.run(["openssl", "req", "-x509", *key, *options], check=True, capture_output=True)
    (home / "certs/ca.pem").write_bytes((home / "cert.pem").read_bytes())


def wait_for_port(port: int) -> None:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise RuntimeError("nginx does not listen")
