"""Runs Radicale, a CalDAV server, configured for a reverse proxy as in its manual.

It trusts the user name in `X-Remote-User` without a password, so only the gateway protects it.
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
# Otherwise its page sends a request without cookies first, and stops at the 401.
prefer_browser_login = True
"""


@contextlib.contextmanager
def calendar(home: pathlib.Path) -> Iterator[str]:
    """Runs the calendar server in `home` and yields its URL."""
    home.mkdir()
    port = free_port()
    config = home / "config"
    config.write_text(CONFIG.format(port=port, home=home))
    argv = [sys.executable, "-m", "radicale", "--config", str(config)]
    with Child(argv, home / "log") as child:
        child.wait_until(lambda: responds(port, "/.web/"))
        yield f"http://127.0.0.1:{port}"
