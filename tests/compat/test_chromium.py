"""Chromium over HTTP/2. A page sends the requests and writes the results as JSON."""

import json
import re
import unittest

from chromium import dump
from servers_running import behind_gateway

HOST = "node.localhost"


class Chromium(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.gateway = cls.enterClassContext(behind_gateway("node"))
        text = dump(cls.gateway, HOST, "/page")
        found = re.search(r"<pre>(.*?)</pre>", text, re.DOTALL)
        if found is None:
            raise AssertionError(text)
        cls.results = json.loads(found[1].replace("&quot;", '"').replace("&amp;", "&"))

    def test_an_upload_arrives_whole(self):
        self.assertEqual(self.results["upload"]["length"], 300_000)

    def test_a_download_arrives_whole(self):
        self.assertEqual((self.results["bytes"], self.results["stream"]), (300_000, 300_000))

    def test_a_redirect_to_the_servers_own_address_is_followed(self):
        self.assertEqual(self.results["redirect"]["query"], "redirected=1")

    def test_150_small_cookies_are_accepted(self):
        self.assertEqual(self.results["cookies"], 150)

    def test_the_page_uses_http_2(self):
        self.assertEqual(self.results["protocol"], "h2")


if __name__ == "__main__":
    unittest.main()
