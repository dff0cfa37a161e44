"""NTLM of curl and Chromium with an app that authenticates connections, as IIS does."""

import unittest

from chromium import dump
from clients import Curl
from servers_running import behind_gateway

HOST = "ntlm.localhost"


class Ntlm(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.gateway = cls.enterClassContext(behind_gateway("ntlm"))

    def curl(self, user: str, *arguments: str) -> str:
        credentials = ("--ntlm", "--user", f"{user}:password") if user else ()
        return Curl(self.gateway, *credentials).run(HOST, "/", *arguments)

    def test_curl_logs_in_and_no_other_client_is_logged_in(self):
        for user in ("alice", "bob", "alice"):
            self.assertEqual(self.curl(user), f"hello {user}")
            for protocol in ("--http1.1", "--http2"):
                for _ in range(3):
                    self.assertEqual(self.curl("", protocol), "none")

    def test_curl_logs_in_with_a_post(self):
        for size in (10, 100_000):
            body = "x" * size
            self.assertEqual(self.curl("alice", "--data", body), "hello alice")
            self.assertEqual(self.curl("", "--data", body), "none")

    def test_curl_uses_its_connection_for_several_requests(self):
        port = self.gateway.port
        url = f"https://{HOST}:{port}/again"
        # Three requests on one connection, the last two without a new handshake.
        self.assertEqual(self.curl("alice", url, url), "hello alice" * 3)

    def test_chromium_logs_in(self):
        self.assertIn("hello alice", dump(self.gateway, HOST, "/", "alice:password@"))
        self.assertEqual(self.curl(""), "none")


if __name__ == "__main__":
    unittest.main()
