"""nginx as an app: compression and ranges."""

import gzip
import unittest

from clients import Curl
from servers_running import behind_gateway


class Nginx(unittest.TestCase):
    def ask(self, keys: str, *options: str):
        with behind_gateway("nginx", keys={"nginx": keys}) as gateway:
            return Curl(gateway, *options).send("nginx.localhost", "GET", "/text.txt")

    def test_without_via_nginx_compresses(self):
        for protocol in ("--http1.1", "--http2"):
            answer = self.ask("via = false", protocol, "-H", "Accept-Encoding: gzip")
            self.assertEqual(answer.values("content-encoding"), ["gzip"])
            self.assertEqual(len(gzip.decompress(answer.body)), 130_000)
            self.assertLess(len(answer.body), 2_000)

    def test_with_via_nginx_does_not_compress(self):
        answer = self.ask("", "-H", "Accept-Encoding: gzip")
        self.assertEqual((answer.values("content-encoding"), len(answer.body)), ([], 130_000))

    def test_a_range_arrives(self):
        answer = self.ask("", "--range", "100-199")
        self.assertEqual((answer.status, len(answer.body)), (206, 100))
        self.assertEqual(answer.values("content-range"), ["bytes 100-199/130000"])


if __name__ == "__main__":
    unittest.main()
