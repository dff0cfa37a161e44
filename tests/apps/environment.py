"""The stage: both apps and the gateway before them, and the end of all three.

As a program it serves the browser suite: it prints one line of JSON, stays until its
standard input closes, and takes everything down.
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
from gateway import ALICE, BOB, CALENDAR, CAROL, PRINTER, Gateway, Timing, gateway
from printer_app import printer


@contextlib.contextmanager
def stage(timing: Timing = Timing()) -> Iterator[Gateway]:
    """Everything in one fresh directory; its logs are shown when the body fails."""
    home = pathlib.Path(tempfile.mkdtemp(prefix="doorward-stage-"))
    try:
        with contextlib.ExitStack() as stack:
            upstreams = [
                stack.enter_context(calendar(home / "calendar")),
                stack.enter_context(printer(home / "printer")),
            ]
            yield stack.enter_context(gateway(home / "gateway", *upstreams, timing))
    finally:
        shutil.rmtree(home, ignore_errors=True)


def main() -> None:
    # A terminated stage must still take its children along.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with stage(Timing(*sys.argv[1:])) as running:
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
