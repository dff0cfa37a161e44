"""Headless Chromium as a program: opens a page and prints its text."""

import os
import subprocess
import tempfile

from gateway_process import Gateway

TIMEOUT_SECONDS = 40


def dump(gateway: Gateway, host: str, path: str, credentials: str = "") -> str:
    """Returns the document after its scripts have run. `credentials` is `NAME:PASSWORD@`."""
    with tempfile.TemporaryDirectory(prefix="doorward-chromium-") as profile:
        argv = [
            os.environ["CHROMIUM"],
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
            f"--user-data-dir={profile}",
            "--ignore-certificate-errors",
            "--host-resolver-rules=MAP * 127.0.0.1",
            "--virtual-time-budget=10000",
            "--dump-dom",
            f"https://{credentials}{host}:{gateway.port}{path}",
        ]
        done = subprocess.run(argv, capture_output=True, timeout=TIMEOUT_SECONDS)
        return done.stdout.decode(errors="replace")
