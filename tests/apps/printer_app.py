"""Runs OctoPrint, a web interface for 3D printers, which trusts the user header of its proxy.

Its page uses one SockJS WebSocket. OctoPrint's virtual printer replaces the machine. Update checks, news and discovery
are disabled, so it opens no outgoing connections.
"""

import contextlib
import pathlib
import sys
from collections.abc import Iterator

from child import Child, responds, free_port

CONFIG = """\
accessControl:
  trustRemoteUser: true
  remoteUserHeader: X-Remote-User
  addRemoteUsers: true
  trustRemoteGroups: true
  remoteGroupsHeader: X-Remote-Groups
  remoteGroupsMapping: {staff: admins}
  autologinHeadsupAcknowledged: true
  salt: only-for-tests
appearance:
  name: Workshop
server:
  firstRun: false
  ipCheck: {enabled: false}
  onlineCheck: {enabled: false}
  pluginBlacklist: {enabled: false}
  reverseProxy:
    schemeHeader: X-Forwarded-Proto
plugins:
  _disabled:
    - achievements
    - announcements
    - appkeys
    - backup
    - discovery
    - errortracking
    - health_check
    - pluginmanager
    - softwareupdate
    - tracking
  virtual_printer:
    enabled: true
serial:
  port: VIRTUAL
"""


@contextlib.contextmanager
def printer(home: pathlib.Path) -> Iterator[str]:
    """Runs the printer server in `home` and yields its URL."""
    home.mkdir()
    port = free_port()
    config = home / "config.yaml"
    config.write_text(CONFIG)
    octoprint = pathlib.Path(sys.executable).with_name("octoprint")
    argv = [str(octoprint), "serve", "--iknowwhatimdoing", "--host", "127.0.0.1"]
    argv += ["--port", str(port), "--basedir", str(home), "--config", str(config)]
    with Child(argv, home / "log") as child:
        # A small server responds during the start. Only the real one has this path.
        child.wait_until(lambda: responds(port, "/sockjs/info"))
        yield f"http://127.0.0.1:{port}"
