"""Runs the gateway in front of both apps. Its files are created with the commands of an operator."""

import contextlib
import dataclasses
import json
import os
import pathlib
import subprocess
from collections.abc import Iterator

from child import Child

CALENDAR = "calendar.localhost"
PRINTER = "printer.localhost"

CONFIG = """\
[server]
https = ["127.0.0.1:0"]

[admin]
listen = "127.0.0.1:0"
socket = "{home}/admin.sock"

[keys]
file = "{home}/keys.toml"

[[tls.certificate]]
cert = "{home}/certs/doorward.pem"
key = "{home}/certs/doorward.key"

[store]
url = "embedded:{home}/state"

[session]
idle_timeout = "{timing.idle}"
absolute_timeout = "{timing.absolute}"
rotate_after = "{timing.rotate_after}"
rotation_grace = "{timing.grace}"

[login]
second_factor = "optional"

[login.password]
users = "{home}/users.toml"

# It does not respond. Its button is on every login page.
[login.oidc.corp]
issuer = "http://127.0.0.1:9"
client_id = "doorward"
client_auth = "none"
label = "Example Company"
trust_user_names = true

[[route]]
host = "{calendar_host}"
upstream = "{calendar}"
access = "session"
preset = "radicale"

[[route]]
host = "{printer_host}"
upstream = "{printer}"
access = {{ groups = ["staff"] }}
preset = "octoprint"
identity = {{ "X-Remote-User" = "{{user}}", "X-Remote-Groups" = "{{groups}}" }}
"""


@dataclasses.dataclass(frozen=True)
class User:
    name: str
    password: str
    groups: str


ALICE = User("alice", "correct horse battery staple", "staff")
# Sessions of this user end often. Logins per user and minute are limited, so tests that log out share no user.
CAROL = User("carol", "a password for early logouts", "staff,parents")
BOB = User("bob", "a quieter sort of password", "guests")


@dataclasses.dataclass(frozen=True)
class Timing:
    """Session times in the format of the configuration."""

    idle: str = "5m"
    absolute: str = "1h"
    rotate_after: str = "10m"
    grace: str = "2s"


@dataclasses.dataclass(frozen=True)
class Gateway:
    port: int
    ca: pathlib.Path
    certificate: pathlib.Path
    key: pathlib.Path
    log: pathlib.Path


@contextlib.contextmanager
def start_gateway(home: pathlib.Path, calendar: str, printer: str, timing: Timing) -> Iterator[Gateway]:
    """Runs doorward in `home` in front of the two apps, with three users in its users file."""
    home.mkdir()
    _command("certs", "dev", "--dir", home / "certs", "--host", CALENDAR, "--host", PRINTER)
    for user in (ALICE, BOB, CAROL):
        _add_user(home / "users.toml", user)
    config = home / "doorward.toml"
    config.write_text(
        CONFIG.format(
            home=home,
            timing=timing,
            calendar=calendar,
            printer=printer,
            calendar_host=CALENDAR,
            printer_host=PRINTER,
        )
    )
    with Child([_program(), "run", "--config", str(config)], home / "log") as child:
        child.wait_until(lambda: _https_port(child.output()) is not None)
        certs = home / "certs"
        port = _https_port(child.output())
        ca, certificate, key = (certs / name for name in ("ca.pem", "doorward.pem", "doorward.key"))
        yield Gateway(port, ca, certificate, key, child.log)


def _program() -> str:
    return os.environ["DOORWARD_BIN"]


def _add_user(users: pathlib.Path, user: User) -> None:
    add = ("user", "add", user.name, "--users", users, "--password-stdin", "--groups", user.groups)
    _command(*add, stdin=user.password)


def _command(*args: object, stdin: str = "") -> None:
    argv = [_program(), *map(str, args)]
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=30)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(argv)} failed:\n{done.stdout}{done.stderr}")


def _https_port(log: str) -> int | None:
    """Returns the port of the first HTTPS listener in the log, or None before the gateway listens."""
    for line in log.splitlines():
        fields = _json_line(line)
        if fields.get("event") == "gateway.listening" and fields.get("scheme") == "https":
            return int(fields["address"].rsplit(":", 1)[1])
    return None


def _json_line(line: str) -> dict:
    try:
        value = json.loads(line)
    except ValueError:
        return {}
    if not isinstance(value, dict):
        return {}
    return value
