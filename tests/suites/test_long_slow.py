"""slowhttptest: two hundred clients that send or read slowly, and one ordinary client.

The ordinary client sends a request every second and must always be served.
"""

import pathlib
import re
import shutil
import subprocess
import tempfile
import unittest

import apps
from gateway_process import Route, start_gateway

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
        cls.gateway = cls.enterClassContext(start_gateway(routes, 'header_timeout = "3s"'))

    def test_other_clients_are_served_during_slow_attacks(self) -> None:
        for name, mode in MODES.items():
            with self.subTest(name):
                output = self.attack(mode)
                available = re.findall(r"service available:\s*(\w+)", output)
                # Reported every five seconds. Slow heads are closed before the second report.
                self.assertEqual(set(available), {"YES"}, output[-2000:])
                print(f"\n{name}: {CLIENTS} clients for {SECONDS} s, available in all {len(available)} reports")

    def test_slow_heads_are_closed_by_their_deadline(self) -> None:
        output = self.attack("-H")
        self.assertRegex(output, r"Exit status:\s*No open connections left", output[-2000:])

    def attack(self, mode: str) -> str:
        url = f"https://{HOST}:{self.gateway.port}/"
        size = ("-w", "1", "-y", "2", "-z", "1") if mode == "-X" else ()
        load = ("-c", str(CLIENTS), "-r", str(CLIENTS), "-i", "1", "-l", str(SECONDS), "-p", "3")
        argv = ["slowhttptest", mode, *load, *size, "-u", url, "-v", "1"]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=SECONDS + 40)
        return re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)


if __name__ == "__main__":
    unittest.main()
