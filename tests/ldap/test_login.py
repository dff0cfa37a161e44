"""Logins at OpenLDAP through the gateway."""

import contextlib
import http.client
import pathlib
import re
import subprocess
import tempfile
import unittest
import urllib.parse

from directory import PASSWORD, SERVICE, SUFFIX, Directory
from gateway_process import PASSWORD as LOCAL_PASSWORD
from gateway_process import USER, Gateway, Route, program, start_gateway

HOST = "app.localhost"

SECTION = """
[login.ldap.company]
urls = ["{url}"]
ca = "{ca}"
bind_dn = "{service}"
bind_password_file = "{password}"
base = "ou=people,{suffix}"
groups_base = "ou=groups,{suffix}"
{more}
"""


class Login(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.home = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory(prefix="doorward-ldap-")))
        certs = cls.home / "certs"
        argv = [program(), "certs", "dev", "--dir", str(certs), "--host", "localhost"]
        subprocess.run(argv, check=True, capture_output=True, timeout=60)
        (cls.home / "password").write_text(PASSWORD)
        cls.directory = Directory(cls.home, certs)
        cls.server = contextlib.ExitStack()
        cls.addClassCleanup(lambda: cls.server.close())
        cls.server.enter_context(cls.directory.running())
        cls.directory.fill(["anna", "ben", "carl", "dora", "eve", USER], ["anna", "carl", "dora", "eve"])

    def before(self, more: str = "", url: str = "", ca: str = "certs/ca.pem") -> Gateway:
        """A gateway before the directory, with StartTLS."""
        section = SECTION.format(
            url=url or f"ldap://localhost:{self.directory.port}",
            ca=self.home / ca,
            service=SERVICE,
            password=self.home / "password",
            suffix=SUFFIX,
            more=more,
        )
        route = Route(HOST, "http://127.0.0.1:1")
        return self.enterContext(start_gateway([route], tables=section))

    def log_in(self, front: Gateway, name: str, password: str = PASSWORD) -> tuple[int, str]:
        """Status of a login, and the session cookie or the page."""
        page, cookies, _ = ask(front, "GET", "/.doorward/login")
        csrf = re.search(r'name="csrf"[^>]*value="([^"]*)"', page).group(1)
        form = urllib.parse.urlencode({"username": name, "password": password, "csrf": csrf})
        page, cookies, status = ask(front, "POST", "/.doorward/login", form, cookies)
        return status, cookies if status == 303 else page

    def test_starttls_and_ldaps_admit_users_with_their_groups(self):
        ldaps = f"ldaps://localhost:{self.directory.tls_port}"
        search = 'group_filter = "(&(objectClass=groupOfNames)(member={dn}))"\n'
        allow = 'allow_groups = ["staff"]\n'
        for more, url in ((allow, ""), (allow, ldaps), (search + allow, "")):
            front = self.before(more, url)
            self.assertEqual(self.log_in(front, "anna")[0], 303, more)
            self.assertEqual(self.log_in(front, " Anna ")[0], 303, more)
            status, page = self.log_in(front, "ben")
            self.assertEqual(status, 403, page)
            self.assertIn("your account cannot log in here", page)

    def test_wrong_and_empty_passwords_and_patterns_are_refused(self):
        front = self.before()
        for name, password in (
            ("anna", "wrong"),
            ("anna", ""),
            ("anna", "\u00ad"),
            ("unknown", PASSWORD),
            ("*", PASSWORD),
            ("anna)(uid=*", PASSWORD),
            ("", PASSWORD),
        ):
            status, page = self.log_in(front, name, password)
            self.assertEqual(status, 401, (name, password, page))

    def test_name_of_the_users_file_is_not_verified_at_the_directory(self):
        front = self.before()
        self.assertEqual(self.log_in(front, USER)[0], 401)
        self.assertEqual(self.log_in(front, USER, LOCAL_PASSWORD)[0], 303)

    def test_untrusted_certificate_makes_the_login_unavailable(self):
        other = self.home / "other"
        argv = [program(), "certs", "dev", "--dir", str(other), "--host", "localhost"]
        subprocess.run(argv, check=True, capture_output=True, timeout=60)
        status, page = self.log_in(self.before(ca="other/ca.pem"), "anna")
        self.assertEqual(status, 503, page)

    def test_password_policy_locks_and_resets(self):
        front = self.before()
        for _ in range(3):
            self.assertEqual(self.log_in(front, "carl", "wrong")[0], 401)
        self.assertEqual(self.log_in(front, "carl")[0], 401, "locked after three failures")
        self.directory.replace("dora", "pwdAccountLockedTime", "000001010000Z")
        self.assertEqual(self.log_in(front, "dora")[0], 401, "locked by an operator")
        self.assertEqual(self.log_in(front, "eve")[0], 303)
        self.directory.replace("eve", "pwdReset", "TRUE")
        self.assertEqual(self.log_in(front, "eve")[0], 403, "needs a new password")

    def test_sessions_continue_while_the_directory_is_down(self):
        front = self.before()
        status, cookies = self.log_in(front, "anna")
        self.assertEqual(status, 303)
        self.server.close()
        status, page = self.log_in(front, "anna")
        self.assertEqual(status, 503, page)
        self.assertEqual(self.log_in(front, USER, LOCAL_PASSWORD)[0], 303, "the users file")
        _, _, status = ask(front, "GET", "/.doorward/sessions", cookies=cookies)
        self.assertEqual(status, 200)
        second = self.before()
        self.server.enter_context(self.directory.running())
        for running in (front, second):
            self.assertEqual(self.log_in(running, "anna")[0], 303)


def ask(front: Gateway, method: str, path: str, form: str | None = None, cookies: str = "") -> tuple[str, str, int]:
    """Text, cookies and status of a response."""
    headers = {"Origin": f"https://{HOST}:{front.port}", "Cookie": cookies, "Accept": "text/html"}
    if form is not None:
        headers["Content-Type"] = "application/x-www-form-urlencoded"
    connection = http.client.HTTPSConnection(HOST, front.port)
    connection.sock = front.connect(HOST)
    try:
        connection.request(method, path, form, headers)
        response = connection.getresponse()
        lines = [line.split(";")[0] for line in response.headers.get_all("Set-Cookie", [])]
        return response.read().decode(), "; ".join(lines), response.status
    finally:
        connection.close()


if __name__ == "__main__":
    unittest.main()
