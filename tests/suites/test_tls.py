"""Scans TLS with SSLyze: no old version, no weak cipher suite, no known vulnerability."""

import contextlib
import pathlib
import shutil
import tempfile
import unittest

import apps
from gateway_process import Route, start_gateway
from sslyze import (
    ScanCommand,
    Scanner,
    ServerNetworkConfiguration,
    ServerNetworkLocation,
    ServerScanRequest,
    ServerScanStatusEnum,
)

HOST = "raw.tls.localhost"
OLD = ("ssl_2_0", "ssl_3_0", "tls_1_0", "tls_1_1")
NEW = ("tls_1_2", "tls_1_3")
# Parts of the names of cipher suites without forward secrecy, authentication or encryption, or with broken ones.
WEAK = ("_RSA_WITH_", "CBC", "NULL", "RC4", "3DES", "EXPORT", "anon", "MD5")


class Tls(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        home = pathlib.Path(tempfile.mkdtemp(prefix="doorward-tls-"))
        cls.addClassCleanup(shutil.rmtree, home, ignore_errors=True)
        stack = cls.enterClassContext(contextlib.ExitStack())
        port = stack.enter_context(apps.app("raw", home))
        routes = [Route(HOST, f"http://127.0.0.1:{port}", "public")]
        gateway = stack.enter_context(start_gateway(routes))
        cls.found = scan(gateway.port)

    def test_only_tls_1_2_and_1_3_are_accepted(self) -> None:
        for version in OLD:
            suites = self.result(f"{version}_cipher_suites").accepted_cipher_suites
            self.assertEqual(suites, [], version)
        for version in NEW:
            suites = self.result(f"{version}_cipher_suites").accepted_cipher_suites
            self.assertGreater(len(suites), 0, version)
            names = [suite.cipher_suite.name for suite in suites]
            weak = [name for name in names if any(part in name for part in WEAK)]
            self.assertEqual(weak, [], version)

    def test_known_vulnerabilities_are_absent(self) -> None:
        self.assertFalse(self.result("tls_compression").supports_compression, "CRIME")
        self.assertFalse(self.result("heartbleed").is_vulnerable_to_heartbleed)
        self.assertFalse(self.result("openssl_ccs_injection").is_vulnerable_to_ccs_injection)
        self.assertIn("NOT_VULNERABLE", self.result("robot").robot_result.name)
        renegotiation = self.result("session_renegotiation")
        self.assertFalse(renegotiation.is_vulnerable_to_client_renegotiation_dos)
        self.assertTrue(renegotiation.supports_secure_renegotiation)

    def test_early_data_is_refused_and_sessions_are_resumed(self) -> None:
        self.assertFalse(self.result("tls_1_3_early_data").supports_early_data)
        resumed = self.result("session_resumption")
        self.assertEqual(resumed.session_id_resumption_result.name, "FULLY_SUPPORTED")

    def result(self, name: str):
        attempt = getattr(self.found, name)
        self.assertIsNotNone(attempt.result, f"{name}: {attempt.error_trace}")
        return attempt.result


def scan(port: int):
    server = ServerScanRequest(
        server_location=ServerNetworkLocation(HOST, port, "127.0.0.1"),
        network_configuration=ServerNetworkConfiguration(HOST, network_timeout=10),
        scan_commands=set(ScanCommand) - {ScanCommand.HTTP_HEADERS, ScanCommand.CERTIFICATE_INFO},
    )
    scanner = Scanner(per_server_concurrent_connections_limit=5)
    scanner.queue_scans([server])
    (found,) = scanner.get_results()
    if found.scan_status is not ServerScanStatusEnum.COMPLETED:
        raise AssertionError(f"the scan failed: {found.connectivity_error_trace}")
    return found.scan_result


if __name__ == "__main__":
    unittest.main()
