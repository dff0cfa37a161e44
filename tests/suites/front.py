"""The gateway under test before any upstreams, and a client that sends exactly the bytes it is given."""

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
PATIENCE_SECONDS = 20


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
        plain = socket.create_connection(("127.0.0.1", self.port), PATIENCE_SECONDS)
        return tls.wrap_socket(plain, server_hostname=host)

    def send(self, host: str, request: bytes) -> bytes:
        """All that comes back until the gateway closes, or nothing came for a while."""
        with self.connect(host) as stream:
            stream.sendall(request)
            return read_all(stream)

    def log_in(self, host: str) -> str:
        """The session cookie of a fresh login, as a `Cookie` line has it."""
        page, cookies = self._ask(host, "GET", "/.doorward/login")
        csrf = re.search(r'name="csrf"[^>]*value="([^"]*)"', page).group(1)
        form = urllib.parse.urlencode({"username": USER, "password": PASSWORD, "csrf": csrf})
        headers = {
            "Content-Type": "application/x-www-form-urlencoded",
            "Origin": f"https://{host}:{self.port}",
            "Cookie": "; ".join(cookies),
        }
        page, cookies = self._ask(host, "POST", "/.doorward/login", form, headers)
        session = [pair for pair in cookies if pair.startswith(f"{SESSION_COOKIE}=")]
        if len(session) != 1:
            raise AssertionError(f"no login at {host}: {page}")
        return session[0]

    def _ask(self, host, method, path, body=None, headers=None):
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
def gateway(routes: list[Route], limits: str = "") -> Iterator[Gateway]:
    """Runs doorward in a new directory before these routes; `limits` is more of `[limits]`."""
    home = pathlib.Path(tempfile.mkdtemp(prefix="doorward-suite-"))
    try:
        hosts = [word for route in routes for word in ("--host", route.host)]
        command("certs", "dev", "--dir", home / "certs", *hosts)
        users = ("--users", home / "users.toml", "--password-stdin")
        command("user", "add", USER, *users, words=PASSWORD)
        config = home / "doorward.toml"
        text = CONFIG.format(home=home, limits=limits)
        config.write_text(text + "".join(ROUTE.format(**vars(route)) for route in routes))
        with Child([program(), "run", "--config", str(config)], home / "log") as child:
            child.wait_until(lambda: https_port(child.output()) is not None)
            yield Gateway(https_port(child.output()), home)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def program() -> str:
    return os.environ["DOORWARD_BIN"]


def command(*args: object, words: str = "") -> None:
    argv = [program(), *map(str, args)]
    done = subprocess.run(argv, input=words, capture_output=True, text=True, timeout=60)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(argv)} failed:\n{done.stdout}{done.stderr}")


def https_port(log: str) -> int | None:
    """The port that the log tells, or None while it tells none."""
    for line in log.splitlines():
        with contextlib.suppress(ValueError):
            fields = json.loads(line)
            if fields.get("event") == "gateway.listening" and fields.get("scheme") == "https":
                return int(fields["address"].rsplit(":", 1)[1])
    return None


def read_all(stream: socket.socket, quiet_seconds: float = 1.0) -> bytes:
    """Everything until the end, or until nothing came for so long."""
    stream.settimeout(quiet_seconds)
    out = b""
    while True:
        try:
            piece = stream.recv(65536)
        except (TimeoutError, ConnectionError, ssl.SSLError):
            return out
        if not piece:
            return out
        out += piece
