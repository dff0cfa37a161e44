"""Runs the gateway in front of any upstreams, and sends raw bytes to it."""

import contextlib
import dataclasses
import http.client
import json
import os
import pathlib
import re
import shutil
import socket
import ssl
import subprocess
import tempfile
import urllib.parse
from collections.abc import Iterator

from child import Child

CONFIG = """\
[server]
https = ["127.0.0.1:0"]

# All clients of a suite come from one address.
[limits]
connection_rate = 1000000
{limits}

[admin]
listen = "127.0.0.1:0"
socket = "{home}/admin.sock"

[keys]
file = "{home}/keys.toml"

[[tls.certificate]]
cert = "{home}/certs/doorward.pem"
key = "{home}/certs/doorward.key"

[store]
url = "memory:"

[login.password]
users = "{home}/users.toml"

[log]
format = "json"
"""

ROUTE = """
[[route]]
host = "{host}"
upstream = "{upstream}"
access = "{access}"
{keys}
"""

USER = "alice"
PASSWORD = "correct horse battery staple"
SESSION_COOKIE = "__Host-doorward"
TIMEOUT_SECONDS = 20


@dataclasses.dataclass(frozen=True)
class Route:
    host: str
    upstream: str
    access: str = "session"
    keys: str = ""


@dataclasses.dataclass(frozen=True)
class Gateway:
    port: int
    home: pathlib.Path

    def connect(self, host: str, protocol: str = "http/1.1") -> ssl.SSLSocket:
        tls = ssl.create_default_context(cafile=str(self.home / "certs/ca.pem"))
        tls.set_alpn_protocols([protocol])
        plain = socket.create_connection(("127.0.0.1", self.port), TIMEOUT_SECONDS)
        return tls.wrap_socket(plain, server_hostname=host)

    def send(self, host: str, request: bytes) -> bytes:
        """Returns the bytes until the gateway closes the connection or sends nothing for one second."""
        with self.connect(host) as stream:
            stream.sendall(request)
            return read_all(stream)

    def log_in(self, host: str) -> str:
        """Logs in and returns the session cookie as `NAME=VALUE`."""
        page, cookies = self._exchange(host, "GET", "/.doorward/login")
        csrf = re.search(r'name="csrf"[^>]*value="([^"]*)"', page).group(1)
        form = urllib.parse.urlencode({"username": USER, "password": PASSWORD, "csrf": csrf})
        headers = {
            "Content-Type": "application/x-www-form-urlencoded",
            "Origin": f"https://{host}:{self.port}",
            "Cookie": "; ".join(cookies),
        }
        page, cookies = self._exchange(host, "POST", "/.doorward/login", form, headers)
        session = [pair for pair in cookies if pair.startswith(f"{SESSION_COOKIE}=")]
        if len(session) != 1:
            raise AssertionError(f"no login at {host}: {page}")
        return session[0]

    def _exchange(self, host, method, path, body=None, headers=None):
        connection = http.client.HTTPSConnection(host, self.port)
        connection.sock = self.connect(host)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            lines = response.headers.get_all("Set-Cookie", [])
            return response.read().decode(), [line.split(";")[0] for line in lines]
        finally:
            connection.close()


@contextlib.contextmanager
def start_gateway(routes: list[Route], limits: str = "", tables: str = "") -> Iterator[Gateway]:
    """Runs doorward with these routes in a new directory. `limits` are further lines of `[limits]`, `tables` further tables."""
    home = pathlib.Path(tempfile.mkdtemp(prefix="doorward-suite-"))
    try:
        hosts = [argument for route in routes for argument in ("--host", route.host)]
        command("certs", "dev", "--dir", home / "certs", *hosts)
        users = ("--users", home / "users.toml", "--password-stdin")
        command("user", "add", USER, *users, stdin=PASSWORD)
        config = home / "doorward.toml"
        text = CONFIG.format(home=home, limits=limits)
        config.write_text(text + tables + "".join(ROUTE.format(**vars(route)) for route in routes))
        with Child([program(), "run", "--config", str(config)], home / "log") as child:
            child.wait_until(lambda: https_port(child.output()) is not None)
            yield Gateway(https_port(child.output()), home)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def program() -> str:
    return os.environ["DOORWARD_BIN"]


def command(*args: object, stdin: str = "") -> None:
    argv = [program(), *map(str, args)]
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=60)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(argv)} failed:\n{done.stdout}{done.stderr}")


def https_port(log: str) -> int | None:
    """Returns the port of the first HTTPS listener in the log, or None before the gateway listens."""
    for line in log.splitlines():
        with contextlib.suppress(ValueError):
            fields = json.loads(line)
            if fields.get("event") == "gateway.listening" and fields.get("scheme") == "https":
                return int(fields["address"].rsplit(":", 1)[1])
    return None


def read_all(stream: socket.socket, quiet_seconds: float = 1.0) -> bytes:
    """Returns the bytes until the end, or until nothing arrives for `quiet_seconds`."""
    stream.settimeout(quiet_seconds)
    out = b""
    while True:
        try:
            chunk = stream.recv(65536)
        except (TimeoutError, ConnectionError, ssl.SSLError):
            return out
        if not chunk:
            return out
        out += chunk
