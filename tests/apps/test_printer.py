"""A printer server that lives on a WebSocket, behind the gateway."""

import contextlib
import hashlib
import json
import time
import unittest
import uuid

from websockets.exceptions import ConnectionClosed, InvalidStatus

from gateway import ALICE, BOB, CAROL, PRINTER
from sockjs import SockJs, websocket_path
from stage import stage
from visitor import NAVIGATION, Visitor

JSON = {"Content-Type": "application/json"}
# The promise is one second; the rest is for a busy machine.
CUT_WITHIN_SECONDS = 3


def setUpModule():
    global GATEWAY
    GATEWAY = unittest.enterModuleContext(stage())


def logged_in(user):
    visitor = Visitor(GATEWAY, PRINTER)
    visitor.log_in(user)
    return visitor


def call(visitor, method, path, message=None, headers=()):
    """An API call as OctoPrint's page makes it: JSON, and the CSRF cookie once more as a header."""
    csrf = [("X-CSRF-Token", v) for k, v in visitor.cookies.items() if k.startswith("csrf_token")]
    body = b"" if message is None else json.dumps(message).encode()
    return visitor.send(method, path, body, [*JSON.items(), *csrf, *headers])


def at_the_printer(user):
    """A visitor with the page open, and what the app answered to the page's own passive login."""
    visitor = logged_in(user)
    page = visitor.send("GET", "/", headers=NAVIGATION)
    assert page.status == 200, page.text
    return visitor, json.loads(call(visitor, "POST", "/api/login", {"passive": True}).body)


@contextlib.contextmanager
def greeted(visitor, login):
    """The page's conversation after the app has accepted who speaks."""
    with SockJs(visitor) as sockjs:
        sockjs.wait_for("connected")
        sockjs.say({"auth": f"{login['name']}:{login['session']}"})
        sockjs.wait_for("history")
        yield sockjs


def upload(visitor, name, content):
    border = uuid.uuid4().hex
    csrf = [("X-CSRF-Token", v) for k, v in visitor.cookies.items() if k.startswith("csrf_token")]
    head = f'--{border}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
    head += "Content-Type: application/octet-stream\r\n\r\n"
    body = head.encode() + content + f"\r\n--{border}--\r\n".encode()
    kind = ("Content-Type", f"multipart/form-data; boundary={border}")
    return visitor.send("POST", "/api/files/local", body, [kind, *csrf])


def wait_for_the_cut(sockjs):
    """The close code the gateway gave; fails when the conversation goes on."""
    deadline = time.monotonic() + CUT_WITHIN_SECONDS
    while time.monotonic() < deadline:
        try:
            sockjs.socket.recv(timeout=0.1)
        except TimeoutError:
            continue
        except ConnectionClosed as closed:
            return closed.rcvd.code if closed.rcvd else None
    raise AssertionError(f"the WebSocket lives on {CUT_WITHIN_SECONDS} s after the logout")


class APrinterThatTrustsItsProxy(unittest.TestCase):
    def test_takes_the_visitor_for_the_one_who_logged_in_with_her_groups(self):
        alice, login = at_the_printer(ALICE)
        self.assertEqual(login["name"], "alice")
        self.assertEqual(login["_login_mechanism"], "remote_user")
        self.assertIn("admins", login["groups"])
        me = json.loads(call(alice, "GET", "/api/currentuser").body)
        self.assertEqual(me["name"], "alice")

    def test_never_takes_her_for_somebody_a_header_names(self):
        alice = logged_in(ALICE)
        for name in ("X-Remote-User", "x-remote-user", "X_Remote_User"):
            with self.subTest(name=name):
                alice.send("GET", "/", headers={**NAVIGATION, name: "mallory"})
                response = call(alice, "POST", "/api/login", {"passive": True}, [(name, "mallory")])
                self.assertEqual(json.loads(response.body)["name"], "alice")
        users = json.loads(call(alice, "GET", "/api/access/users").body)["users"]
        self.assertNotIn("mallory", [user["name"] for user in users])

    def test_never_hears_of_a_user_whose_groups_the_route_does_not_admit(self):
        bob = logged_in(BOB)
        self.assertEqual(bob.send("GET", "/", headers=NAVIGATION).status, 403)
        self.assertEqual(bob.send("GET", "/api/version").status, 403)
        alice, _ = at_the_printer(ALICE)
        users = json.loads(call(alice, "GET", "/api/access/users").body)["users"]
        self.assertNotIn("bob", [user["name"] for user in users])

    def test_gives_back_a_large_file_whole_and_in_parts(self):
        alice, _ = at_the_printer(ALICE)
        content = b"G1 X10 Y10 ; a line of a long print\n" * 150_000
        kept = upload(alice, "large.gcode", content)
        self.assertEqual(kept.status, 201, kept.text)
        whole = alice.send("GET", "/downloads/files/local/large.gcode")
        self.assertEqual(hashlib.sha256(whole.body).digest(), hashlib.sha256(content).digest())
        part = alice.send("GET", "/downloads/files/local/large.gcode", headers={"Range": "bytes=36-71"})
        self.assertEqual((part.status, part.body), (206, content[36:72]))


class ItsWebSocket(unittest.TestCase):
    def test_is_refused_without_a_session(self):
        with self.assertRaises(InvalidStatus) as refused:
            with Visitor(GATEWAY, PRINTER).websocket(websocket_path()):
                pass
        self.assertEqual(refused.exception.response.status_code, 401)

    def test_is_refused_to_a_user_whom_the_route_does_not_admit(self):
        with self.assertRaises(InvalidStatus) as refused:
            with logged_in(BOB).websocket(websocket_path()):
                pass
        self.assertEqual(refused.exception.response.status_code, 403)

    def test_carries_messages_both_ways(self):
        alice, login = at_the_printer(ALICE)
        with greeted(alice, login) as sockjs:
            begun = call(alice, "POST", "/api/connection", {"command": "connect", "port": "VIRTUAL"})
            self.assertEqual(begun.status, 204, begun.text)
            sockjs.wait_for("current", lambda now: now["state"]["flags"]["operational"])
            sent = call(alice, "POST", "/api/printer/command", {"commands": ["M117 hello"]})
            self.assertEqual(sent.status, 204, sent.text)
            sockjs.wait_for("current", lambda now: any("M117 hello" in line for line in now["logs"]))

    def test_tells_the_page_what_arrived_by_another_way(self):
        alice, login = at_the_printer(ALICE)
        with greeted(alice, login) as sockjs:
            upload(alice, "gear.gcode", b"G28\n")
            event = sockjs.wait_for("event", lambda event: event["type"] == "Upload")
            self.assertEqual(event["payload"]["name"], "gear.gcode")

    def test_is_cut_with_a_close_frame_when_she_logs_out(self):
        carol, login = at_the_printer(CAROL)
        with greeted(carol, login) as sockjs:
            carol.log_out()
            self.assertEqual(wait_for_the_cut(sockjs), 1008)

    def test_is_cut_when_she_logs_out_everywhere_from_another_browser(self):
        carol, login = at_the_printer(CAROL)
        elsewhere = logged_in(CAROL)
        with greeted(carol, login) as sockjs:
            elsewhere.log_out_everywhere()
            self.assertEqual(wait_for_the_cut(sockjs), 1008)
        self.assertEqual(carol.send("GET", "/api/version").status, 401)

    def test_lives_on_when_somebody_else_logs_out(self):
        alice, login = at_the_printer(ALICE)
        with greeted(alice, login) as sockjs:
            logged_in(BOB).log_out_everywhere()
            upload(alice, "wheel.gcode", b"G28\n")
            sockjs.wait_for("event", lambda event: event["type"] == "Upload")


class ItsEventStream(unittest.TestCase):
    """SockJS falls back to server-sent events where a WebSocket cannot pass."""

    def test_arrives_piece_by_piece_and_is_cut_at_logout(self):
        carol, _ = at_the_printer(CAROL)
        path = f"/sockjs/123/{uuid.uuid4().hex}/eventsource"
        connection = carol.open("GET", path, headers={"Accept": "text/event-stream"})
        self.addCleanup(connection.close)
        socket = connection.sock
        stream = connection.getresponse()
        self.assertEqual(stream.status, 200)
        while b"connected" not in stream.readline():
            pass
        carol.log_out()
        started = time.monotonic()
        socket.settimeout(CUT_WITHIN_SECONDS)
        self.read_to_the_end(stream)
        self.assertLess(time.monotonic() - started, CUT_WITHIN_SECONDS)

    def read_to_the_end(self, stream):
        """A cut stream breaks off; only an endless one is wrong, and that is a TimeoutError."""
        try:
            while stream.readline():
                pass
        except TimeoutError:
            raise
        except (OSError, ValueError):
            pass


if __name__ == "__main__":
    unittest.main()
