"""testssl.sh, which tries what a scanner's library no longer can: every old cipher and hole by hand."""

import json
import pathlib
import shutil
import subprocess
import tempfile
import unittest

import apps
from front import Route, gateway

HOST = "localhost"
# Of the development authority, which no public list knows, and of its certificate.
ABOUT_TRUST = {
    "cert_chain_of_trust",
    "cert_revocation",
    "cert_crlDistributionPoints",
    "DNS_CAArecord",
    "OCSP_stapling",
    "cert_trust",
    "cert_caIssuers",
}
# All suites are strong, so the client chooses: a phone knows best whether it has AES in hardware.
CHOSEN = {"cipher_order"}
# The answer is the app's own here, which sets none.
OF_THE_APP = {"security_headers"}
FINE = ABOUT_TRUST | CHOSEN | OF_THE_APP
BAD = ("MEDIUM", "HIGH", "CRITICAL")


class Testssl(unittest.TestCase):
    def test_nothing_worse_than_low_but_for_the_development_authority(self) -> None:
        home = pathlib.Path(tempfile.mkdtemp(prefix="doorward-testssl-"))
        self.addCleanup(shutil.rmtree, home, ignore_errors=True)
        port = self.enterContext(apps.app("raw", home))
        front = self.enterContext(gateway([Route(HOST, f"http://127.0.0.1:{port}", "public")]))
        out = home / "found.json"
        where = ("--ip", "127.0.0.1", f"{HOST}:{front.port}")
        quiet = ("--quiet", "--color", "0", "--warnings", "batch", "--jsonfile", str(out))
        done = subprocess.run(["testssl", *quiet, *where], capture_output=True, text=True, timeout=900)
        found = json.loads(out.read_text())
        self.assertGreater(len(found), 80, done.stdout[-2000:])
        bad = [one for one in found if one["severity"] in BAD and one["id"].split(" ")[0] not in FINE]
        self.assertEqual(bad, [])
        print(f"\ntestssl.sh: {len(found)} findings, none bad")


if __name__ == "__main__":
    unittest.main()
