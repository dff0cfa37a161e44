"""slowhttptest: two hundred clients that send or read as slowly as they can, and one who does not.

Asks its question every second: is anybody else still served?
"""

import pathlib
import re
import shutil
import subprocess
import tempfile
import unittest

import apps
from front import Route, gateway

HOST = "localhost"
SECONDS = 20
CLIENTS = 200
MODES = {"slow heads": "-H", "slow bodies": "-B", "slow reading": "-X"}


class Slow(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        home = pathlib.Path(tempfile.mkdtemp(prefix="doorward-slow-"))
        cls.addClassCleanup(shutil.rmtree, home, ignore_errors=True)
        port = cls.enterClassContext(apps.app("node", home))
        routes = [Route(HOST, f"http://127.0.0.1:{port}", "public")]
        cls.front = cls.enterClassContext(gateway(routes, 'header_timeout = "3s"'))

    def test_others_are_served_whatever_is_slow(self) -> None:
        for name, mode in MODES.items():
            with self.subTest(name):
                told = self.attack(mode)
                available = re.findall(r"service available:\s*(\w+)", told)
                # Told every five seconds; slow heads are gone before the second time.
                self.assertEqual(set(available), {"YES"}, told[-2000:])
                print(f"\n{name}: {CLIENTS} clients for {SECONDS} s, available {len(available)} times of {len(available)}")

    def test_slow_heads_are_closed_by_their_deadline(self) -> None:
        told = self.attack("-H")
        self.assertRegex(told, r"Exit status:\s*No open connections left", told[-2000:])

    def attack(self, mode: str) -> str:
        url = f"https://{HOST}:{self.front.port}/"
        size = ("-w", "1", "-y", "2", "-z", "1") if mode == "-X" else ()
        load = ("-c", str(CLIENTS), "-r", str(CLIENTS), "-i", "1", "-l", str(SECONDS), "-p", "3")
        argv = ["slowhttptest", mode, *load, *size, "-u", url, "-v", "1"]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=SECONDS + 40)
        return re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)


if __name__ == "__main__":
    unittest.main()
