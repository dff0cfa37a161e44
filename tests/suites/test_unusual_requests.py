"""Unusual requests through the gateway to nginx, Apache, gunicorn, node and a plain socket.

The five servers parse requests differently. Behind the gateway, all of them must receive the one request that the
gateway authorized: the same path, host, user and body, and no second request.
"""

import collections
import concurrent.futures
import contextlib
import pathlib
import shutil
import socket
import tempfile
import unittest
import urllib.parse
from collections.abc import Callable, Iterator

import apps
import unusual_requests
from gateway_process import USER, Route, read_all, start_gateway
from unusual_requests import EVIL, SMUGGLED, UnusualRequest

# Requests that the servers must parse differently without the gateway. Servers that always agree would prove nothing.
DIFFER_AT_LEAST = 25


def host_of(name: str) -> str:
    return f"{name}.suite.localhost"


class UnusualRequests(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.home = pathlib.Path(tempfile.mkdtemp(prefix="doorward-suite-"))
        cls.stack = contextlib.ExitStack()
        cls.addClassCleanup(shutil.rmtree, cls.home, ignore_errors=True)
        cls.addClassCleanup(cls.stack.close)
        enter = cls.stack.enter_context
        cls.ports = {name: enter(apps.app(name, cls.home)) for name in apps.NAMES}
        urls = {name: f"http://127.0.0.1:{port}" for name, port in cls.ports.items()}
        cls.gateway = enter(start_gateway([Route(host_of(name), url) for name, url in urls.items()]))
        cls.cookies = {name: cls.gateway.log_in(host_of(name)) for name in apps.NAMES}

    def test_every_app_receives_the_one_authorized_request(self) -> None:
        def send(name: str, request: UnusualRequest) -> bytes:
            host = host_of(name)
            return self.gateway.send(host, request.serialize(host, self.cookies[name]))

        counts = collections.Counter()
        for request, responses in send_to_all(send):
            received = {}
            for name, response in responses.items():
                with self.subTest(request=request.name, app=name):
                    received[name] = self.check(request, name, response)
            counts["passed" if any(received.values()) else "refused"] += 1
        print(f"\nunusual requests: {counts['passed']} reached an app, {counts['refused']} reached none")
        self.assertGreater(counts["passed"], 40)
        self.assertGreater(counts["refused"], 60)

    def check(self, request: UnusualRequest, name: str, response: bytes) -> dict[str, str] | None:
        """Checks and returns the request that the app received; None if the gateway refused it."""
        self.assertTrue(response.startswith(b"HTTP/1.1 "), response[:200])
        values = values_of(response)
        if not values:
            self.assertTrue(request.method == "HEAD" or is_refusal(response), response[:200])
            return None
        self.assertEqual(values["app"], name)
        self.assertEqual(values["user"], USER)
        self.assertEqual(values["host"].lower().rstrip("."), host_of(name))
        self.assertEqual(path_in(values), unquoted(path_of(request)))
        self.assertNotIn(EVIL, response.decode("latin-1").split("headers=", 1)[1])
        if request.length is not None:
            self.assertIn(values["body"], (str(request.length), ""), "the body that was sent")
        return values

    def test_zz_no_app_receives_a_smuggled_request(self) -> None:
        # The name makes it the last test, after all requests were sent.
        for name in apps.NAMES:
            targets = apps.targets(name, self.home)
            self.assertNotIn(SMUGGLED, targets, name)
            self.assertGreater(len(targets.splitlines()), 40, f"{name} logged no targets")

    def test_servers_disagree_without_the_gateway(self) -> None:
        # Uses separate servers, because requests are smuggled to them.
        differ = []
        home = pathlib.Path(tempfile.mkdtemp(prefix="doorward-suite-"))
        with contextlib.ExitStack() as stack:
            stack.callback(shutil.rmtree, home, ignore_errors=True)
            ports = {name: stack.enter_context(apps.app(name, home)) for name in apps.NAMES}
            for request, responses in send_to_all(
                lambda name, request: send_directly(ports[name], request.serialize("a.test"))
            ):
                if len({view(response) for response in responses.values()}) > 1:
                    differ.append(request.name)
        print(f"\nunusual requests: without the gateway, the servers parse {len(differ)} differently")
        self.assertGreater(len(differ), DIFFER_AT_LEAST, differ)


def send_to_all(
    send: Callable[[str, UnusualRequest], bytes],
) -> Iterator[tuple[UnusualRequest, dict[str, bytes]]]:
    """Sends every request to all servers in parallel. Yields it with the response of each server."""
    requests = unusual_requests.requests()
    with concurrent.futures.ThreadPoolExecutor(len(apps.NAMES)) as pool:
        results = pool.map(lambda name: [send(name, request) for request in requests], apps.NAMES)
        columns = dict(zip(apps.NAMES, results, strict=True))
    for at, request in enumerate(requests):
        yield request, {name: responses[at] for name, responses in columns.items()}


def is_refusal(response: bytes) -> bool:
    """Accepts a 4xx of gateway or app, a page of the gateway, and its 204 for `Max-Forwards: 0`."""
    return response[9:10] == b"4" or response[9:12] == b"204" or b"frame-ancestors 'none'" in response


def values_of(response: bytes) -> dict[str, str]:
    """Returns the `name=value` lines of an app; empty if the response is not from an app."""
    text = response.decode("latin-1")
    if "app=" not in text:
        return {}
    lines = text[text.index("app=") :].splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


def path_of(request: UnusualRequest) -> str:
    """Returns the requested path."""
    target = request.target.split("#")[0].split("?")[0]
    if "://" in target:
        target = urllib.parse.urlsplit(target).path
    return target or "/"


def path_in(values: dict[str, str]) -> str:
    """Returns the decoded path that the app received. Some servers report it encoded."""
    raw = values["app"] in ("node", "raw")
    return unquoted(values["path"]) if raw else decoded(values["path"])


def unquoted(path: str) -> str:
    return decoded(urllib.parse.unquote_to_bytes(path.encode("latin-1")).decode("latin-1"))


def decoded(path: str) -> str:
    return path.encode("latin-1").decode("utf-8", "replace")


def send_directly(port: int, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), 5) as stream:
        stream.sendall(request)
        return read_all(stream, 0.5)


def view(response: bytes) -> tuple:
    values = values_of(response)
    if not values:
        return ("refused",)
    return (path_in(values), values["user"], values["host"], response.count(b"HTTP/1.1 "))


if __name__ == "__main__":
    unittest.main()
