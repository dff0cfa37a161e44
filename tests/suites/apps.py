"""Runs five servers that parse requests differently. Each responds with the request that it received."""

import contextlib
import pathlib
import socket
import sys
from collections.abc import Iterator

from child import Child, free_port

HERE = pathlib.Path(__file__).parent / "servers"
MODULES = "/usr/lib/apache2/modules"
NAMES = ("nginx", "apache", "gunicorn", "node", "raw")


@contextlib.contextmanager
def app(name: str, home: pathlib.Path) -> Iterator[int]:
    """Runs one server and yields its port."""
    port = free_port()
    with Child(_argv(name, port, home), home / f"{name}.log") as child:
        child.wait_until(lambda: _listens(port))
        yield port


def targets(name: str, home: pathlib.Path) -> str:
    """Returns the request targets that a server received."""
    own = home / f"{name}.targets"
    return (own if own.exists() else home / f"{name}.log").read_text(errors="replace")


def _argv(name: str, port: int, home: pathlib.Path) -> list[str]:
    match name:
        case "nginx":
            return ["nginx", "-p", str(home), "-c", _filled("nginx.conf", port, home)]
        case "apache":
            return ["apache2", "-D", "FOREGROUND", "-f", _filled("apache.conf", port, home)]
        case "gunicorn":
            where = ("--chdir", str(HERE), "--bind", f"127.0.0.1:{port}")
            return [sys.executable, "-m", "gunicorn", "--workers", "1", *where, "wsgi:app"]
        case "node":
            return ["node", str(HERE / "app.mjs"), str(port)]
        case "raw":
            return [sys.executable, "-u", str(HERE / "raw.py"), str(port)]
    raise ValueError(name)


def _filled(name: str, port: int, home: pathlib.Path) -> str:
    text = (HERE / name).read_text()
    for placeholder, value in {"HOME": home, "PORT": port, "HERE": HERE, "MODULES": MODULES}.items():
        text = text.replace(placeholder, str(value))
    path = home / name
    path.write_text(text)
    return str(path)


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False
