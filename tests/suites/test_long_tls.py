"""Scans TLS with testssl.sh, which also tests ciphers and vulnerabilities that current libraries cannot produce."""

import json
import pathlib
import shutil
import subprocess
import tempfile
import unittest

import apps
from gateway_process import Route, start_gateway

HOST = "localhost"
# Findings about the development CA, which is not publicly trusted, and its certificate.
DEVELOPMENT_CA = {
    "cert_chain_of_trust",
    "cert_revocation",
    "cert_crlDistributionPoints",
    "DNS_CAArecord",
    "OCSP_stapling",
    "cert_trust",
    "cert_caIssuers",
}
# All suites are strong, so the client chooses. Its hardware decides which one is fast.
CLIENT_PREFERENCE = {"cipher_order"}
# The response comes from the test app, which sets no security headers.
APP_HEADERS = {"security_headers"}
EXPECTED = DEVELOPMENT_CA | CLIENT_PREFERENCE | APP_HEADERS
BAD = ("MEDIUM", "HIGH", "CRITICAL")


class Testssl(unittest.TestCase):
    def test_findings_are_low_except_for_the_development_ca(self) -> None:
        home = pathlib.Path(tempfile.mkdtemp(prefix="doorward-testssl-"))
        self.addCleanup(shutil.rmtree, home, ignore_errors=True)
        port = self.enterContext(apps.app("raw", home))
        gateway = self.enterContext(start_gateway([Route(HOST, f"http://127.0.0.1:{port}", "public")]))
        out = home / "found.json"
        target = ("--ip", "127.0.0.1", f"{HOST}:{gateway.port}")
        options = ("--quiet", "--color", "0", "--warnings", "batch", "--jsonfile", str(out))
        done = subprocess.run(["testssl", *options, *target], capture_output=True, text=True, timeout=900)
        found = json.loads(out.read_text())
        self.assertGreater(len(found), 80, done.stdout[-2000:])
        bad = [one for one in found if one["severity"] in BAD and one["id"].split(" ")[0] not in EXPECTED]
        self.assertEqual(bad, [])
        print(f"\ntestssl.sh: {len(found)} findings, none bad")


if __name__ == "__main__":
    unittest.main()
