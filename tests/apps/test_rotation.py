"""The token changes under two apps in full use, and neither of them notices."""

import time
import unittest

from gateway import ALICE, CALENDAR, PRINTER, Timing
from sockjs import SockJs
from stage import stage
from visitor import NAVIGATION, SESSION_COOKIE, Visitor

PATIENCE_SECONDS = 40


def setUpModule():
    global GATEWAY
    GATEWAY = unittest.enterModuleContext(stage(Timing(rotate_after="2s", grace="1s")))


def logged_in(host):
    visitor = Visitor(GATEWAY, host)
    visitor.log_in(ALICE)
    return visitor


def use_until_renewed(visitor, times, use):
    """Calls `use` again and again until the cookie has changed so often."""
    seen = [visitor.cookies[SESSION_COOKIE]]
    deadline = time.monotonic() + PATIENCE_SECONDS
    while len(seen) <= times:
        assert time.monotonic() < deadline, f"only {len(seen) - 1} renewals"
        use(len(seen))
        if visitor.cookies[SESSION_COOKIE] != seen[-1]:
            seen.append(visitor.cookies[SESSION_COOKIE])
        time.sleep(0.1)
    return seen


class ARenewal(unittest.TestCase):
    def test_is_not_noticed_by_a_calendar_client(self):
        alice = logged_in(CALENDAR)

        def look(_):
            self.assertEqual(alice.send("PROPFIND", "/", headers={"Depth": "0"}).status, 207)

        seen = use_until_renewed(alice, 3, look)
        self.assertEqual(len(set(seen)), len(seen), "a token came back")

    def test_is_not_noticed_by_an_open_websocket(self):
        alice = logged_in(PRINTER)
        with SockJs(alice) as sockjs:
            sockjs.wait_for("connected")

            def look(_):
                self.assertEqual(alice.send("GET", "/", headers=NAVIGATION).status, 200)

            use_until_renewed(alice, 3, look)
            sockjs.socket.ping().wait(5)
            sockjs.say({"throttle": 1})
            self.assertIsNone(sockjs.socket.close_code)

    def test_forbids_caches_to_keep_the_answer_that_carries_it(self):
        alice = logged_in(CALENDAR)
        old = alice.cookies[SESSION_COOKIE]
        response = None
        deadline = time.monotonic() + PATIENCE_SECONDS
        while alice.cookies[SESSION_COOKIE] == old and time.monotonic() < deadline:
            response = alice.send("GET", "/.web/", headers=NAVIGATION)
            time.sleep(0.1)
        self.assertNotEqual(alice.cookies[SESSION_COOKIE], old)
        self.assertIn("no-store", response.headers.get("Cache-Control", ""))

    def test_lets_a_parallel_request_with_the_token_before_through(self):
        alice = logged_in(CALENDAR)
        late = Visitor(GATEWAY, CALENDAR)
        late.cookies = dict(alice.cookies)
        use_until_renewed(alice, 1, lambda _: alice.send("GET", "/.web/", headers=NAVIGATION))
        self.assertEqual(alice.send("PROPFIND", "/", headers={"Depth": "0"}).status, 207)
        self.assertEqual(late.send("PROPFIND", "/", headers={"Depth": "0"}).status, 207)
        self.assertEqual(alice.send("PROPFIND", "/", headers={"Depth": "0"}).status, 207)


class AThief(unittest.TestCase):
    def test_with_an_old_cookie_ends_the_session_for_himself_and_for_her(self):
        alice = logged_in(CALENDAR)
        # The same browser would pass for one that crashed and lost its newest cookies.
        attacker = Visitor(GATEWAY, CALENDAR, browser="somebody else's/2.0")
        attacker.cookies = dict(alice.cookies)
        use_until_renewed(alice, 3, lambda _: alice.send("GET", "/.web/", headers=NAVIGATION))
        self.assertEqual(attacker.send("PROPFIND", "/", headers={"Depth": "0"}).status, 401)
        self.assertEqual(alice.send("PROPFIND", "/", headers={"Depth": "0"}).status, 401)


if __name__ == "__main__":
    unittest.main()
