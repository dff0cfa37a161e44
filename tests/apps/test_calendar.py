"""A calendar server that believes a header, behind the gateway."""

import unittest

from gateway import ALICE, BOB, CALENDAR
from stage import stage
from visitor import NAVIGATION, Visitor

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

WHO_AM_I = b"""<?xml version="1.0"?>
<propfind xmlns="DAV:"><prop><current-user-principal/></prop></propfind>"""

# Every spelling that some server somewhere folds into HTTP_X_REMOTE_USER, and tricks
# that make a careless proxy drop or double the name that it set itself.
SMUGGLED_NAMES = [
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
    GATEWAY = unittest.enterModuleContext(stage())


def logged_in(user):
    visitor = Visitor(GATEWAY, CALENDAR)
    visitor.log_in(user)
    return visitor


def principal(visitor, headers=()):
    """Whom the calendar takes the visitor for, as its answer says it."""
    headers = [("Depth", "0"), ("Content-Type", "application/xml"), *headers]
    return visitor.send("PROPFIND", "/", WHO_AM_I, headers)


class ACalendarThatBelievesAHeader(unittest.TestCase):
    def test_sends_a_stranger_who_navigates_to_login(self):
        response = Visitor(GATEWAY, CALENDAR).send("GET", "/.web/", headers=NAVIGATION)
        self.assertEqual(response.status, 303)
        self.assertIn("/.doorward/login", response.headers["Location"])

    def test_refuses_a_stranger_who_brings_the_header_himself(self):
        for headers in SMUGGLED_NAMES:
            with self.subTest(headers=headers):
                stranger = Visitor(GATEWAY, CALENDAR)
                response = principal(stranger, headers)
                self.assertEqual(response.status, 401)
                self.assertIn("WWW-Authenticate", response.headers)
                self.assertNotIn("current-user-principal", response.text)

    def test_refuses_a_wrong_password(self):
        with self.assertRaisesRegex(AssertionError, "could not log in"):
            logged_in(type(ALICE)("alice", "not her password", "staff"))

    def test_takes_the_visitor_for_the_one_who_logged_in(self):
        for user in (ALICE, BOB):
            response = principal(logged_in(user))
            self.assertEqual(response.status, 207)
            self.assertIn(f"<href>/{user.name}/</href>", response.text)

    def test_never_takes_her_for_somebody_a_header_names(self):
        alice = logged_in(ALICE)
        for headers in SMUGGLED_NAMES:
            with self.subTest(headers=headers):
                response = principal(alice, headers)
                self.assertEqual(response.status, 207)
                self.assertIn("<href>/alice/</href>", response.text)
                self.assertNotIn("bob", response.text)

    def test_keeps_a_whole_appointment_byte_for_byte(self):
        alice = logged_in(ALICE)
        made = alice.send("MKCALENDAR", "/alice/work/")
        self.assertEqual(made.status, 201)
        kept = alice.send("PUT", "/alice/work/tea.ics", EVENT, {"Content-Type": "text/calendar"})
        self.assertEqual(kept.status, 201)
        read = alice.send("GET", "/alice/work/tea.ics")
        self.assertEqual(read.status, 200)
        self.assertEqual(sorted(read.text.splitlines()), sorted(EVENT.decode().splitlines()))
        listed = alice.send("PROPFIND", "/alice/work/", headers={"Depth": "1"})
        self.assertEqual(listed.status, 207)
        self.assertIn("/alice/work/tea.ics", listed.text)
        gone = alice.send("DELETE", "/alice/work/tea.ics", headers={"If-Match": read.headers["ETag"]})
        self.assertEqual(gone.status, 200)

    def test_does_not_show_one_user_what_another_wrote(self):
        alice, bob = logged_in(ALICE), logged_in(BOB)
        self.assertEqual(alice.send("MKCALENDAR", "/alice/private/").status, 201)
        alice.send("PUT", "/alice/private/tea.ics", EVENT, {"Content-Type": "text/calendar"})
        for headers in ({}, {"X-Remote-User": "alice"}, {"X_Remote_User": "alice"}):
            peek = bob.send("GET", "/alice/private/tea.ics", headers=headers)
            self.assertIn(peek.status, (403, 404))
            self.assertNotIn("SUMMARY", peek.text)

    def test_is_closed_to_the_old_cookie_after_logout(self):
        alice = logged_in(ALICE)
        old = dict(alice.cookies)
        self.assertEqual(principal(alice).status, 207)
        alice.log_out()
        alice.cookies = old
        self.assertEqual(principal(alice).status, 401)


if __name__ == "__main__":
    unittest.main()
