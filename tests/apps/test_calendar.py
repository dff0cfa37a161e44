"""A calendar server that trusts a header, behind the gateway."""

import unittest

from gateway import ALICE, BOB, CALENDAR
from environment import environment
from client import NAVIGATION, Client

EVENT = """\
BEGIN:VCALENDAR\r
VERSION:2.0\r
PRODID:-//doorward//tests//EN\r
BEGIN:VEVENT\r
UID:tea@calendar.localhost\r
DTSTAMP:20260901T090000Z\r
DTSTART:20260901T150000Z\r
DTEND:20260901T153000Z\r
SUMMARY:Tea with Zoë — and cake\r
END:VEVENT\r
END:VCALENDAR\r
""".encode()

CURRENT_PRINCIPAL = b"""<?xml version="1.0"?>
<propfind xmlns="DAV:"><prop><current-user-principal/></prop></propfind>"""

# Spellings that servers fold into HTTP_X_REMOTE_USER, and headers that make some proxies drop or repeat their own
# header.
FORGED_HEADERS = [
    [("X-Remote-User", "bob")],
    [("x-remote-user", "bob")],
    [("X_Remote_User", "bob")],
    [("X-Remote_User", "bob")],
    [("X_REMOTE-USER", "bob")],
    [("X-Remote-User", "bob"), ("X-Remote-User", "bob")],
    [("X-Remote-User", "bob"), ("X_Remote_User", "bob"), ("x-remote-user", "bob")],
    [("X-Remote-User", "bob"), ("Connection", "X-Remote-User")],
    [("Connection", "close"), ("Connection", "X-Remote-User")],
    [("Connection", "close, x-remote-user"), ("X_Remote_User", "bob")],
]


def setUpModule():
    global GATEWAY
    GATEWAY = unittest.enterModuleContext(environment())


def logged_in(user):
    client = Client(GATEWAY, CALENDAR)
    client.log_in(user)
    return client


def principal(client, headers=()):
    """Requests the principal that the calendar derives from the identity headers."""
    headers = [("Depth", "0"), ("Content-Type", "application/xml"), *headers]
    return client.send("PROPFIND", "/", CURRENT_PRINCIPAL, headers)


class Calendar(unittest.TestCase):
    def test_navigation_without_a_session_redirects_to_login(self):
        response = Client(GATEWAY, CALENDAR).send("GET", "/.web/", headers=NAVIGATION)
        self.assertEqual(response.status, 303)
        self.assertIn("/.doorward/login", response.headers["Location"])

    def test_forged_headers_without_a_session_are_refused(self):
        for headers in FORGED_HEADERS:
            with self.subTest(headers=headers):
                response = principal(Client(GATEWAY, CALENDAR), headers)
                self.assertEqual(response.status, 401)
                self.assertIn("WWW-Authenticate", response.headers)
                self.assertNotIn("current-user-principal", response.text)

    def test_wrong_password_is_refused(self):
        with self.assertRaisesRegex(AssertionError, "could not log in"):
            logged_in(type(ALICE)("alice", "a wrong password", "staff"))

    def test_calendar_receives_the_logged_in_user(self):
        for user in (ALICE, BOB):
            response = principal(logged_in(user))
            self.assertEqual(response.status, 207)
            self.assertIn(f"<href>/{user.name}/</href>", response.text)

    def test_forged_headers_never_change_the_user(self):
        alice = logged_in(ALICE)
        for headers in FORGED_HEADERS:
            with self.subTest(headers=headers):
                response = principal(alice, headers)
                self.assertEqual(response.status, 207)
                self.assertIn("<href>/alice/</href>", response.text)
                self.assertNotIn("bob", response.text)

    def test_an_appointment_is_stored_unchanged(self):
        alice = logged_in(ALICE)
        created = alice.send("MKCALENDAR", "/alice/work/")
        self.assertEqual(created.status, 201)
        stored = alice.send("PUT", "/alice/work/tea.ics", EVENT, {"Content-Type": "text/calendar"})
        self.assertEqual(stored.status, 201)
        read = alice.send("GET", "/alice/work/tea.ics")
        self.assertEqual(read.status, 200)
        self.assertEqual(sorted(read.text.splitlines()), sorted(EVENT.decode().splitlines()))
        listed = alice.send("PROPFIND", "/alice/work/", headers={"Depth": "1"})
        self.assertEqual(listed.status, 207)
        self.assertIn("/alice/work/tea.ics", listed.text)
        deleted = alice.send("DELETE", "/alice/work/tea.ics", headers={"If-Match": read.headers["ETag"]})
        self.assertEqual(deleted.status, 200)

    def test_a_user_cannot_read_the_events_of_another(self):
        alice, bob = logged_in(ALICE), logged_in(BOB)
        self.assertEqual(alice.send("MKCALENDAR", "/alice/private/").status, 201)
        alice.send("PUT", "/alice/private/tea.ics", EVENT, {"Content-Type": "text/calendar"})
        for headers in ({}, {"X-Remote-User": "alice"}, {"X_Remote_User": "alice"}):
            response = bob.send("GET", "/alice/private/tea.ics", headers=headers)
            self.assertIn(response.status, (403, 404))
            self.assertNotIn("SUMMARY", response.text)

    def test_the_old_cookie_is_refused_after_a_logout(self):
        alice = logged_in(ALICE)
        old = dict(alice.cookies)
        self.assertEqual(principal(alice).status, 207)
        alice.log_out()
        alice.cookies = old
        self.assertEqual(principal(alice).status, 401)


if __name__ == "__main__":
    unittest.main()
