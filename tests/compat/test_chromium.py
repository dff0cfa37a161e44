"""Chromium, over HTTP/2: a page runs the situations and writes what it saw."""

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
        cls.seen = json.loads(found[1].replace("&quot;", '"').replace("&amp;", "&"))

    def test_an_upload_arrives_whole(self):
        self.assertEqual(self.seen["upload"]["length"], 300_000)

    def test_a_download_arrives_whole(self):
        self.assertEqual((self.seen["bytes"], self.seen["stream"]), (300_000, 300_000))

    def test_a_redirect_to_the_servers_own_address_is_followed(self):
        self.assertEqual(self.seen["redirect"]["query"], "redirected=1")

    def test_150_small_cookies_are_accepted(self):
        self.assertEqual(self.seen["cookies"], 150)

    def test_the_page_came_over_http_2(self):
        self.assertEqual(self.seen["protocol"], "h2")


if __name__ == "__main__":
    unittest.main()
