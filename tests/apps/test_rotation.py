"""Token rotation while two apps are in use. The apps must not be affected."""

import time
import unittest

from gateway import ALICE, CALENDAR, PRINTER, Timing
from sockjs import SockJs
from environment import environment
from client import NAVIGATION, SESSION_COOKIE, Client

TIMEOUT_SECONDS = 40


def setUpModule():
    global GATEWAY
    GATEWAY = unittest.enterModuleContext(environment(Timing(rotate_after="2s", grace="1s")))


def logged_in(host):
    client = Client(GATEWAY, host)
    client.log_in(ALICE)
    return client


def use_until_rotated(client, times, use):
    """Calls `use` until the token has rotated `times` times. Returns all tokens."""
    tokens = [client.cookies[SESSION_COOKIE]]
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while len(tokens) <= times:
        assert time.monotonic() < deadline, f"only {len(tokens) - 1} rotations"
        use()
        if client.cookies[SESSION_COOKIE] != tokens[-1]:
            tokens.append(client.cookies[SESSION_COOKIE])
        time.sleep(0.1)
    return tokens


class Rotation(unittest.TestCase):
    def test_does_not_affect_a_calendar_client(self):
        alice = logged_in(CALENDAR)

        def use():
            self.assertEqual(alice.send("PROPFIND", "/", headers={"Depth": "0"}).status, 207)

        tokens = use_until_rotated(alice, 3, use)
        self.assertEqual(len(set(tokens)), len(tokens), "a token was issued twice")

    def test_does_not_affect_an_open_websocket(self):
        alice = logged_in(PRINTER)
        with SockJs(alice) as sockjs:
            sockjs.wait_for("connected")

            def use():
                self.assertEqual(alice.send("GET", "/", headers=NAVIGATION).status, 200)

            use_until_rotated(alice, 3, use)
            sockjs.socket.ping().wait(5)
            sockjs.send({"throttle": 1})
            self.assertIsNone(sockjs.socket.close_code)

    def test_a_response_with_a_new_token_is_not_cacheable(self):
        alice = logged_in(CALENDAR)
        old = alice.cookies[SESSION_COOKIE]
        response = None
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while alice.cookies[SESSION_COOKIE] == old and time.monotonic() < deadline:
            response = alice.send("GET", "/.web/", headers=NAVIGATION)
            time.sleep(0.1)
        self.assertNotEqual(alice.cookies[SESSION_COOKIE], old)
        self.assertIn("no-store", response.headers.get("Cache-Control", ""))

    def test_a_parallel_request_with_the_previous_token_is_accepted(self):
        alice = logged_in(CALENDAR)
        parallel = Client(GATEWAY, CALENDAR)
        parallel.cookies = dict(alice.cookies)
        use_until_rotated(alice, 1, lambda: alice.send("GET", "/.web/", headers=NAVIGATION))
        self.assertEqual(alice.send("PROPFIND", "/", headers={"Depth": "0"}).status, 207)
        self.assertEqual(parallel.send("PROPFIND", "/", headers={"Depth": "0"}).status, 207)
        self.assertEqual(alice.send("PROPFIND", "/", headers={"Depth": "0"}).status, 207)


class Replay(unittest.TestCase):
    def test_of_a_superseded_token_ends_the_session_for_both(self):
        alice = logged_in(CALENDAR)
        # With the same user agent, it could be a browser that crashed and lost its newest cookies.
        attacker = Client(GATEWAY, CALENDAR, user_agent="attacker/2.0")
        attacker.cookies = dict(alice.cookies)
        use_until_rotated(alice, 3, lambda: alice.send("GET", "/.web/", headers=NAVIGATION))
        self.assertEqual(attacker.send("PROPFIND", "/", headers={"Depth": "0"}).status, 401)
        self.assertEqual(alice.send("PROPFIND", "/", headers={"Depth": "0"}).status, 401)


if __name__ == "__main__":
    unittest.main()
