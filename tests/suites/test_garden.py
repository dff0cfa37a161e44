"""The same odd requests before nginx, Apache, gunicorn, node and a plain socket.

Each of them reads requests in its own way. Behind the gateway all of them must see the one request
that the gateway judged: its path, its host, its user, its body, and no other request beside it.
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
import odd
from front import USER, Route, gateway, read_all

# Asked without the gateway, this many of them must be read differently by two of the five: a garden
# in which all plants agree shows nothing.
DIFFER_AT_LEAST = 25


def host_of(name: str) -> str:
    return f"{name}.garden.localhost"


class Garden(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.home = pathlib.Path(tempfile.mkdtemp(prefix="doorward-garden-"))
        cls.stack = contextlib.ExitStack()
        cls.addClassCleanup(shutil.rmtree, cls.home, ignore_errors=True)
        cls.addClassCleanup(cls.stack.close)
        enter = cls.stack.enter_context
        cls.ports = {name: enter(apps.app(name, cls.home)) for name in apps.NAMES}
        urls = {name: f"http://127.0.0.1:{port}" for name, port in cls.ports.items()}
        cls.gateway = enter(gateway([Route(host_of(name), url) for name, url in urls.items()]))
        cls.cookies = {name: cls.gateway.log_in(host_of(name)) for name in apps.NAMES}

    def test_every_app_sees_the_one_request_that_was_judged(self) -> None:
        def ask(name: str, request: odd.Odd) -> bytes:
            host = host_of(name)
            return self.gateway.send(host, request.to(host, self.cookies[name]))

        told = collections.Counter()
        for request, responses in everywhere(ask):
            seen = {}
            for name, response in responses.items():
                with self.subTest(request=request.name, app=name):
                    seen[name] = self.judged(request, name, response)
            told["passed" if any(seen.values()) else "refused"] += 1
        print(f"\ngarden: {told['passed']} odd requests reached an app, {told['refused']} none")
        self.assertGreater(told["passed"], 40)
        self.assertGreater(told["refused"], 60)

    def judged(self, request: odd.Odd, name: str, response: bytes) -> dict[str, str] | None:
        """What the app saw, checked; None when it saw nothing."""
        self.assertTrue(response.startswith(b"HTTP/1.1 "), response[:200])
        words = words_of(response)
        if not words:
            self.assertTrue(request.method == "HEAD" or is_a_refusal(response), response[:200])
            return None
        self.assertEqual(words["app"], name)
        self.assertEqual(words["user"], USER)
        self.assertEqual(words["host"].lower().rstrip("."), host_of(name))
        self.assertEqual(path_in(words), unquoted(path_of(request)))
        self.assertNotIn(odd.EVIL, response.decode("latin-1").split("fields=", 1)[1])
        if request.length is not None:
            self.assertIn(words["body"], (str(request.length), ""), "the body that was sent")
        return words

    def test_zz_no_app_ever_heard_a_request_that_nobody_made(self) -> None:
        for name in apps.NAMES:
            heard = apps.targets(name, self.home)
            self.assertNotIn(odd.SMUGGLED, heard, name)
            self.assertGreater(len(heard.splitlines()), 40, f"{name} tells nothing")

    def test_without_the_gateway_they_do_not_agree(self) -> None:
        # On apps of its own: here requests are smuggled.
        differ = []
        home = pathlib.Path(tempfile.mkdtemp(prefix="doorward-garden-"))
        with contextlib.ExitStack() as stack:
            stack.callback(shutil.rmtree, home, ignore_errors=True)
            ports = {name: stack.enter_context(apps.app(name, home)) for name in apps.NAMES}
            for request, responses in everywhere(
                lambda name, request: directly(ports[name], request.to("a.test"))
            ):
                if len({view(response) for response in responses.values()}) > 1:
                    differ.append(request.name)
        print(f"\ngarden: without the gateway {len(differ)} are read in different ways")
        self.assertGreater(len(differ), DIFFER_AT_LEAST, differ)


def everywhere(ask: Callable[[str, odd.Odd], bytes]) -> Iterator[tuple[odd.Odd, dict[str, bytes]]]:
    """Every request with the answers of all, which are asked side by side."""
    requests = odd.requests()
    with concurrent.futures.ThreadPoolExecutor(len(apps.NAMES)) as pool:
        told = pool.map(lambda name: [ask(name, request) for request in requests], apps.NAMES)
        columns = dict(zip(apps.NAMES, told, strict=True))
    for at, request in enumerate(requests):
        yield request, {name: responses[at] for name, responses in columns.items()}


def is_a_refusal(response: bytes) -> bool:
    """4xx of the gateway or of an app, a page of the gateway's own, or its 204 where Max-Forwards ends."""
    return response[9:10] == b"4" or response[9:12] == b"204" or b"frame-ancestors 'none'" in response


def words_of(response: bytes) -> dict[str, str]:
    """`name=value` lines of an app; nothing when it was not an app that answered."""
    text = response.decode("latin-1")
    if "app=" not in text:
        return {}
    lines = text[text.index("app=") :].splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


def path_of(request: odd.Odd) -> str:
    """The path that was asked for."""
    target = request.target.split("#")[0].split("?")[0]
    if "://" in target:
        target = urllib.parse.urlsplit(target).path
    return target or "/"


def path_in(words: dict[str, str]) -> str:
    """The path as the app would look it up: some of them hand it on as it came."""
    raw = words["app"] in ("node", "raw")
    return unquoted(words["path"]) if raw else decoded(words["path"])


def unquoted(path: str) -> str:
    return decoded(urllib.parse.unquote_to_bytes(path.encode("latin-1")).decode("latin-1"))


def decoded(path: str) -> str:
    return path.encode("latin-1").decode("utf-8", "replace")


def directly(port: int, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), 5) as stream:
        stream.sendall(request)
        return read_all(stream, 0.5)


def view(response: bytes) -> tuple:
    words = words_of(response)
    if not words:
        return ("refused",)
    return (path_in(words), words["user"], words["host"], response.count(b"HTTP/1.1 "))


if __name__ == "__main__":
    unittest.main()
