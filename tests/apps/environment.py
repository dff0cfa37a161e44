"""Runs both apps and the gateway in front of them, and ends all three.

As a program, it serves the browser tests. It prints one line of JSON and ends all processes when its standard input
closes.
"""

import contextlib
import dataclasses
import json
import pathlib
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator

from calendar_app import calendar
from gateway import ALICE, BOB, CALENDAR, CAROL, PRINTER, Gateway, Timing, start_gateway
from printer_app import printer


@contextlib.contextmanager
def environment(timing: Timing = Timing()) -> Iterator[Gateway]:
    """Runs everything in a new directory, which is removed at the end."""
    home = pathlib.Path(tempfile.mkdtemp(prefix="doorward-apps-"))
    try:
        with contextlib.ExitStack() as stack:
            upstreams = [
                stack.enter_context(calendar(home / "calendar")),
                stack.enter_context(printer(home / "printer")),
            ]
            yield stack.enter_context(start_gateway(home / "gateway", *upstreams, timing))
    finally:
        shutil.rmtree(home, ignore_errors=True)


def main() -> None:
    # SIGTERM raises SystemExit, so the context managers end the child processes.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with environment(Timing(*sys.argv[1:])) as running:
        print(json.dumps(_description(running)), flush=True)
        sys.stdin.read()


def _description(running: Gateway) -> dict:
    return {
        "port": running.port,
        "certificate": running.certificate.read_text(),
        "key": running.key.read_text(),
        "calendar": f"https://{CALENDAR}:{running.port}",
        "printer": f"https://{PRINTER}:{running.port}",
        "log": str(running.log),
        "alice": dataclasses.asdict(ALICE),
        "bob": dataclasses.asdict(BOB),
        "carol": dataclasses.asdict(CAROL),
    }


if __name__ == "__main__":
    main()
