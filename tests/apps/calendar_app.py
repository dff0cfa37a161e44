"""Radicale, a CalDAV server, as its manual sets it up behind a reverse proxy.

Whoever names himself in X-Remote-User is that user, without a password: the gateway in
front is all that stands between a visitor and everybody's appointments.
"""

import contextlib
import pathlib
import sys
from collections.abc import Iterator

from child import Child, responds, free_port

CONFIG = """\
[server]
hosts = 127.0.0.1:{port}

[auth]
type = http_x_remote_user

[rights]
type = owner_only

[storage]
filesystem_folder = {home}/collections

[web]
type = internal
# Its page otherwise asks once without cookies who the visitor is, and takes 401 for an answer.
prefer_browser_login = True
"""


@contextlib.contextmanager
def calendar(home: pathlib.Path) -> Iterator[str]:
    """Runs the calendar in `home`; yields the URL it listens on."""
    home.mkdir()
    port = free_port()
    config = home / "config"
    config.write_text(CONFIG.format(port=port, home=home))
    argv = [sys.executable, "-m", "radicale", "--config", str(config)]
    with Child(argv, home / "log") as child:
        child.wait_until(lambda: responds(port, "/.web/"))
        yield f"http://127.0.0.1:{port}"
