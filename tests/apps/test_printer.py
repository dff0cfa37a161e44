"""A printer server that uses a WebSocket, behind the gateway."""

import contextlib
import hashlib
import json
import time
import unittest
import uuid

from websockets.exceptions import ConnectionClosed, InvalidStatus

from gateway import ALICE, BOB, CAROL, PRINTER
from sockjs import SockJs, websocket_path
from environment import environment
from client import NAVIGATION, Client

JSON = {"Content-Type": "application/json"}
# Connections close within one second of the logout. The rest is for a busy machine.
CLOSED_WITHIN_SECONDS = 3


def setUpModule():
    global GATEWAY
    GATEWAY = unittest.enterModuleContext(environment())


def logged_in(user):
    client = Client(GATEWAY, PRINTER)
    client.log_in(user)
    return client


def call(client, method, path, message=None, headers=()):
    """Sends an API call as the page of OctoPrint does: JSON, and the CSRF cookie repeated as a header."""
    csrf = [("X-CSRF-Token", v) for k, v in client.cookies.items() if k.startswith("csrf_token")]
    body = b"" if message is None else json.dumps(message).encode()
    return client.send(method, path, body, [*JSON.items(), *csrf, *headers])


def open_page(user):
    """Logs in, opens the page and performs its passive login. Returns the client and the user that the app reports."""
    client = logged_in(user)
    page = client.send("GET", "/", headers=NAVIGATION)
    assert page.status == 200, page.text
    return client, json.loads(call(client, "POST", "/api/login", {"passive": True}).body)


@contextlib.contextmanager
def authenticated_socket(client, login):
    """Opens the WebSocket of the page and waits until the app has accepted the user."""
    with SockJs(client) as sockjs:
        sockjs.wait_for("connected")
        sockjs.send({"auth": f"{login['name']}:{login['session']}"})
        sockjs.wait_for("history")
        yield sockjs


def upload(client, name, content):
    boundary = uuid.uuid4().hex
    csrf = [("X-CSRF-Token", v) for k, v in client.cookies.items() if k.startswith("csrf_token")]
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
    head += "Content-Type: application/octet-stream\r\n\r\n"
    body = head.encode() + content + f"\r\n--{boundary}--\r\n".encode()
    kind = ("Content-Type", f"multipart/form-data; boundary={boundary}")
    return client.send("POST", "/api/files/local", body, [kind, *csrf])


def wait_for_close(sockjs):
    """Returns the close code of the gateway. Fails if the connection stays open."""
    deadline = time.monotonic() + CLOSED_WITHIN_SECONDS
    while time.monotonic() < deadline:
        try:
            sockjs.socket.recv(timeout=0.1)
        except TimeoutError:
            continue
        except ConnectionClosed as closed:
            return closed.rcvd.code if closed.rcvd else None
    raise AssertionError(f"the WebSocket is still open {CLOSED_WITHIN_SECONDS} s after the logout")


class Printer(unittest.TestCase):
    def test_printer_receives_user_and_groups(self):
        alice, login = open_page(ALICE)
        self.assertEqual(login["name"], "alice")
        self.assertEqual(login["_login_mechanism"], "remote_user")
        self.assertIn("admins", login["groups"])
        me = json.loads(call(alice, "GET", "/api/currentuser").body)
        self.assertEqual(me["name"], "alice")

    def test_forged_headers_never_change_the_user(self):
        alice = logged_in(ALICE)
        for name in ("X-Remote-User", "x-remote-user", "X_Remote_User"):
            with self.subTest(name=name):
                alice.send("GET", "/", headers={**NAVIGATION, name: "mallory"})
                response = call(alice, "POST", "/api/login", {"passive": True}, [(name, "mallory")])
                self.assertEqual(json.loads(response.body)["name"], "alice")
        users = json.loads(call(alice, "GET", "/api/access/users").body)["users"]
        self.assertNotIn("mallory", [user["name"] for user in users])

    def test_printer_never_receives_users_without_the_group(self):
        bob = logged_in(BOB)
        self.assertEqual(bob.send("GET", "/", headers=NAVIGATION).status, 403)
        self.assertEqual(bob.send("GET", "/api/version").status, 403)
        alice, _ = open_page(ALICE)
        users = json.loads(call(alice, "GET", "/api/access/users").body)["users"]
        self.assertNotIn("bob", [user["name"] for user in users])

    def test_a_large_file_is_returned_whole_and_in_ranges(self):
        alice, _ = open_page(ALICE)
        content = b"G1 X10 Y10 ; a line of a long print\n" * 150_000
        stored = upload(alice, "large.gcode", content)
        self.assertEqual(stored.status, 201, stored.text)
        whole = alice.send("GET", "/downloads/files/local/large.gcode")
        self.assertEqual(hashlib.sha256(whole.body).digest(), hashlib.sha256(content).digest())
        part = alice.send("GET", "/downloads/files/local/large.gcode", headers={"Range": "bytes=36-71"})
        self.assertEqual((part.status, part.body), (206, content[36:72]))


class WebSocket(unittest.TestCase):
    def test_is_refused_without_a_session(self):
        with self.assertRaises(InvalidStatus) as refused:
            with Client(GATEWAY, PRINTER).websocket(websocket_path()):
                pass
        self.assertEqual(refused.exception.response.status_code, 401)

    def test_is_refused_to_a_user_without_the_group(self):
        with self.assertRaises(InvalidStatus) as refused:
            with logged_in(BOB).websocket(websocket_path()):
                pass
        self.assertEqual(refused.exception.response.status_code, 403)

    def test_carries_messages_in_both_directions(self):
        alice, login = open_page(ALICE)
        with authenticated_socket(alice, login) as sockjs:
            connected = call(alice, "POST", "/api/connection", {"command": "connect", "port": "VIRTUAL"})
            self.assertEqual(connected.status, 204, connected.text)
            sockjs.wait_for("current", lambda now: now["state"]["flags"]["operational"])
            sent = call(alice, "POST", "/api/printer/command", {"commands": ["M117 hello"]})
            self.assertEqual(sent.status, 204, sent.text)
            sockjs.wait_for("current", lambda now: any("M117 hello" in line for line in now["logs"]))

    def test_reports_an_upload_on_another_connection(self):
        alice, login = open_page(ALICE)
        with authenticated_socket(alice, login) as sockjs:
            upload(alice, "gear.gcode", b"G28\n")
            event = sockjs.wait_for("event", lambda event: event["type"] == "Upload")
            self.assertEqual(event["payload"]["name"], "gear.gcode")

    def test_is_closed_with_a_close_frame_at_logout(self):
        carol, login = open_page(CAROL)
        with authenticated_socket(carol, login) as sockjs:
            carol.log_out()
            self.assertEqual(wait_for_close(sockjs), 1008)

    def test_is_closed_by_logout_everywhere_in_another_browser(self):
        carol, login = open_page(CAROL)
        other_browser = logged_in(CAROL)
        with authenticated_socket(carol, login) as sockjs:
            other_browser.log_out_everywhere()
            self.assertEqual(wait_for_close(sockjs), 1008)
        self.assertEqual(carol.send("GET", "/api/version").status, 401)

    def test_stays_open_when_another_user_logs_out(self):
        alice, login = open_page(ALICE)
        with authenticated_socket(alice, login) as sockjs:
            logged_in(BOB).log_out_everywhere()
            upload(alice, "wheel.gcode", b"G28\n")
            sockjs.wait_for("event", lambda event: event["type"] == "Upload")


class EventStream(unittest.TestCase):
    """SockJS uses server-sent events if WebSockets are blocked."""

    def test_events_arrive_at_once_and_end_at_logout(self):
        carol, _ = open_page(CAROL)
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
        socket.settimeout(CLOSED_WITHIN_SECONDS)
        self.read_to_end(stream)
        self.assertLess(time.monotonic() - started, CLOSED_WITHIN_SECONDS)

    def read_to_end(self, stream):
        """Reads to the end. A closed stream may end with an error; an open one raises TimeoutError."""
        try:
            while stream.readline():
                pass
        except TimeoutError:
            raise
        except (OSError, ValueError):
            pass


if __name__ == "__main__":
    unittest.main()
