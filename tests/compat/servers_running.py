"""Starts the servers of the compatibility tests and the gateway in front of them."""

import contextlib
import os
import pathlib
import socket
import sys
import tempfile
from collections.abc import Iterator

from child import Child, free_port
from gateway_process import Gateway, Route, start_gateway

HERE = pathlib.Path(__file__).parent / "servers"

# Servers with the app in servers/wsgi.py or servers/app.mjs.
APPS = ("gunicorn", "wsgiref", "node")


@contextlib.contextmanager
def behind_gateway(*names: str, keys: dict[str, str] | None = None) -> Iterator[Gateway]:
    """Runs these servers at `NAME.localhost`, without a login. `keys` adds lines to a server's route."""
    with contextlib.ExitStack() as stack:
        home = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="doorward-compat-")))
        routes = []
        for name in names:
            port = stack.enter_context(server(name, home))
            scheme = "h2c" if name == "rpc" else "http"
            upstream = f"{scheme}://127.0.0.1:{port}"
            routes.append(Route(f"{name}.localhost", upstream, "public", (keys or {}).get(name, "")))
        yield stack.enter_context(start_gateway(routes))


@contextlib.contextmanager
def server(name: str, home: pathlib.Path) -> Iterator[int]:
    """Runs one server; returns its port."""
    port = free_port()
    with Child(_argv(name, port, home), home / f"{name}.log", env={"PORT": str(port)}) as child:
        child.wait_until(lambda: _listens(port))
        yield port


def _argv(name: str, port: int, home: pathlib.Path) -> list[str]:
    match name:
        case "gunicorn":
            options = ("--chdir", str(HERE), "--bind", f"127.0.0.1:{port}")
            return [sys.executable, "-m", "gunicorn", "--threads", "8", *options, "wsgi:app"]
        case "wsgiref":
            return [sys.executable, str(HERE / "wsgi.py"), str(port)]
        case "node":
            return ["node", str(HERE / "app.mjs"), str(port)]
        case "files":
            return [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "-d", _files(home), str(port)]
        case "nginx":
            config = (HERE / "nginx.conf").read_text()
            _files(home)
            path = home / "nginx.conf"
            config = config.replace("HOME", str(home)).replace("PORT", str(port))
            # As root, nginx would drop its privileges and could not read the private directory.
            user = "user root;\n" if os.geteuid() == 0 else ""
            path.write_text(user + config)
            return ["nginx", "-p", str(home), "-c", str(path), "-e", str(home / "nginx-start.log")]
        case "ntlm" | "rpc":
            return [sys.executable, str(HERE / f"{name}.py"), str(port)]
    raise ValueError(name)


def _files(home: pathlib.Path) -> str:
    folder = home / "files"
    folder.mkdir(exist_ok=True)
    (folder / "text.txt").write_text("compressible\n" * 10_000)
    return str(folder)


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False
