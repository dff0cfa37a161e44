"""nginx as an app: compression and ranges."""

import gzip
import unittest

from clients import Curl
from servers_running import behind_gateway


class Nginx(unittest.TestCase):
    def get(self, keys: str, *options: str):
        with behind_gateway("nginx", keys={"nginx": keys}) as gateway:
            return Curl(gateway, *options).send("nginx.localhost", "GET", "/text.txt")

    def test_without_via_nginx_compresses(self):
        for protocol in ("--http1.1", "--http2"):
            response = self.get("via = false", protocol, "-H", "Accept-Encoding: gzip")
            self.assertEqual(response.values("content-encoding"), ["gzip"])
            self.assertEqual(len(gzip.decompress(response.body)), 130_000)
            self.assertLess(len(response.body), 2_000)

    def test_with_via_nginx_does_not_compress(self):
        response = self.get("", "-H", "Accept-Encoding: gzip")
        self.assertEqual((response.values("content-encoding"), len(response.body)), ([], 130_000))

    def test_a_range_arrives(self):
        response = self.get("", "--range", "100-199")
        self.assertEqual((response.status, len(response.body)), (206, 100))
        self.assertEqual(response.values("content-range"), ["bytes 100-199/130000"])


if __name__ == "__main__":
    unittest.main()
