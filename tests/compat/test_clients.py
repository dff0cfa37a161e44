"""Each client with each server, in situations that proxies handle wrongly."""

import hashlib
import json
import unittest

from clients import all_clients
from servers_running import APPS, behind_gateway

UPLOAD = bytes(range(256)) * 1200  # 300 kB, larger than any buffer between client and server


class Clients(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.gateway = cls.enterClassContext(behind_gateway(*APPS, "files"))

    def each(self, check, servers=APPS):
        """Calls `check` with each client and the host of each server."""
        for server in servers:
            for name, client in all_clients(self.gateway).items():
                with self.subTest(client=name, server=server):
                    check(client, f"{server}.localhost")

    def test_a_body_of_known_length_arrives_whole(self):
        def check(client, host):
            for body in (b"", b"order=1", UPLOAD):
                response = client.send(host, "POST", "/echo?a=%20b&c=d", body)
                received = json.loads(response.body)
                self.assertEqual((response.status, received["method"]), (200, "POST"))
                self.assertEqual(received["query"], "a=%20b&c=d")
                self.assertEqual(received["hash"], hashlib.sha256(body).hexdigest())

        self.each(check)

    def test_a_body_of_unknown_length_arrives_whole(self):
        # wsgiref reads no chunked bodies.
        def check(client, host):
            received = json.loads(client.send(host, "PUT", "/echo", UPLOAD, chunked=True).body)
            self.assertEqual((received["method"], received["length"]), ("PUT", len(UPLOAD)))
            self.assertEqual(received["hash"], hashlib.sha256(UPLOAD).hexdigest())

        self.each(check, ("node",))

    def test_responses_of_all_framings_arrive_whole(self):
        def check(client, host):
            for path, size in (("/bytes?n=0", 0), ("/bytes?n=300000", 300_000), ("/stream?n=300", 300_000)):
                response = client.send(host, "GET", path)
                self.assertEqual((response.status, len(response.body)), (200, size), path)

        self.each(check)

    def test_a_response_without_a_body_keeps_its_status(self):
        def check(client, host):
            for number in (204, 404, 500, 503):
                self.assertEqual(client.send(host, "GET", f"/status?n={number}").status, number)
            response = client.send(host, "HEAD", "/bytes?n=1000")
            self.assertEqual((response.status, response.values("content-length")), (200, ["1000"]))

        self.each(check)

    def test_200_cookies_of_a_response_arrive(self):
        def check(client, host):
            response = client.send(host, "GET", "/cookies?n=200")
            expected = [f"c{index}=v" for index in range(200)]
            self.assertEqual(response.values("set-cookie"), expected)

        self.each(check)

    def test_a_redirect_to_the_servers_own_address_becomes_public(self):
        def check(client, host):
            response = client.send(host, "GET", "/redirect")
            public = f"https://{host}:{self.gateway.port}/echo?redirected=1"
            self.assertEqual((response.status, response.values("location")), (302, [public]))

        self.each(check)

    def test_responses_name_no_server_and_no_alternative(self):
        def check(client, host):
            response = client.send(host, "GET", "/bytes?n=1")
            for name in ("alt-svc", "server", "connection", "keep-alive"):
                self.assertEqual(response.values(name), [], name)

        self.each(check)

    def test_files_of_an_http_1_0_server_arrive_whole(self):
        def check(client, host):
            response = client.send(host, "GET", "/text.txt")
            self.assertEqual((response.status, len(response.body)), (200, 130_000))

        self.each(check, ("files",))


if __name__ == "__main__":
    unittest.main()
