"""A person's client: keeps cookies, trusts the development CA, fills in the login form."""

import dataclasses
import html.parser
import http.client
import http.cookies
import socket
import ssl
from collections.abc import Mapping
from urllib.parse import urlencode, urljoin, urlsplit

from websockets.sync.client import connect

from gateway import Gateway, User

SESSION_COOKIE = "__Host-doorward"
TIMEOUT_SECONDS = 20
# What a browser says when a person opens a page; anything else is an API call.
NAVIGATION = {"Accept": "text/html,application/xhtml+xml"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@dataclasses.dataclass(frozen=True)
class Response:
    path: str
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


class Visitor:
    """One person at one host, with one cookie jar."""

    def __init__(self, gateway: Gateway, host: str, browser: str = "visitor/1.0"):
        self.host = host
        self.browser = browser
        self.port = gateway.port
        self.origin = f"https://{host}:{gateway.port}"
        self.cookies: dict[str, str] = {}
        self.tls = ssl.create_default_context(cafile=str(gateway.ca))
        self.tls.set_alpn_protocols(["http/1.1"])

    def log_in(self, user: User) -> Response:
        """Opens the login page, fills in what a person fills in, sends the form."""
        page = self.send("GET", "/.doorward/login", headers=NAVIGATION)
        form = the_form(page, "username")
        response = self.submit(form, username=user.name, password=user.password)
        if response.status != 303 or SESSION_COOKIE not in self.cookies:
            raise AssertionError(f"{user.name} could not log in: {response.status} {response.text}")
        return response

    def log_out(self) -> None:
        """The gateway's own logout, through the form it shows."""
        page = self.send("GET", "/.doorward/logout", headers=NAVIGATION)
        self._leave(the_form(page, "csrf"))

    def log_out_everywhere(self) -> None:
        """Ends every session of this user, on the page that lists them."""
        page = self.send("GET", "/.doorward/sessions", headers=NAVIGATION)
        question = self.submit(the_form(page, "do", "confirm-all"))
        self._leave(the_form(question, "do", "end-all"))

    def _leave(self, form: "Form") -> None:
        response = self.submit(form)
        if response.status not in (200, 303):
            raise AssertionError(f"could not log out: {response.status} {response.text}")

    def submit(self, form: "Form", **typed: str) -> Response:
        path = urlsplit(urljoin(self.origin + form.page, form.action)).path
        body = urlencode({**form.hidden, **typed}).encode()
        return self.send("POST", path, body, {**NAVIGATION, **FORM, "Origin": self.origin})

    def send(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Mapping[str, str] | list[tuple[str, str]] = (),
    ) -> Response:
        """One request on a connection of its own. `headers` as pairs keeps doubles."""
        connection = self.open(method, path, body, headers)
        try:
            response = connection.getresponse()
            answer = Response(path, response.status, response.headers, response.read())
        finally:
            connection.close()
        self._keep_cookies(answer.headers)
        return answer

    def open(self, method, path, body=b"", headers=()) -> http.client.HTTPConnection:
        """Sends a request and leaves the answer unread, for those who read it slowly."""
        connection = http.client.HTTPSConnection(self.host, self.port)
        connection.sock = self._tls_socket()
        connection.putrequest(method, path, skip_accept_encoding=True)
        for name, value in [("User-Agent", self.browser), *pairs(headers)]:
            connection.putheader(name, value)
        if self.cookies:
            connection.putheader("Cookie", self._cookie_line())
        if body or method in ("POST", "PUT"):
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body or None)
        return connection

    def websocket(self, path: str, headers: list[tuple[str, str]] = ()) -> connect:
        """A WebSocket as a page of this host would open it; `with` does the handshake."""
        return connect(
            f"wss://{self.host}:{self.port}{path}",
            sock=socket.create_connection(("127.0.0.1", self.port), TIMEOUT_SECONDS),
            ssl=self.tls,
            server_hostname=self.host,
            origin=self.origin,
            user_agent_header=self.browser,
            additional_headers=[("Cookie", self._cookie_line()), *headers],
            open_timeout=TIMEOUT_SECONDS,
            close_timeout=2,
            max_size=None,
        )

    def _tls_socket(self) -> ssl.SSLSocket:
        # Not every resolver knows *.localhost; browsers go to loopback without asking.
        plain = socket.create_connection(("127.0.0.1", self.port), TIMEOUT_SECONDS)
        return self.tls.wrap_socket(plain, server_hostname=self.host)

    def _cookie_line(self) -> str:
        return "; ".join(f"{name}={value}" for name, value in self.cookies.items())

    def _keep_cookies(self, headers: http.client.HTTPMessage) -> None:
        for line in headers.get_all("Set-Cookie", []):
            for name, morsel in http.cookies.SimpleCookie(line).items():
                if morsel["max-age"] == "0" or not morsel.value:
                    self.cookies.pop(name, None)
                else:
                    self.cookies[name] = morsel.value


def pairs(headers: Mapping[str, str] | list[tuple[str, str]]) -> list[tuple[str, str]]:
    return list(headers.items()) if isinstance(headers, Mapping) else list(headers)


@dataclasses.dataclass
class Form:
    page: str
    action: str
    hidden: dict[str, str]
    fields: set[str]
    buttons: set[tuple[str, str]]

    def has(self, field: str, value: str) -> bool:
        return self.hidden.get(field) == value or (field, value) in self.buttons


def the_form(page: Response, field: str, value: str | None = None) -> Form:
    """The form with that field, filled or to be pressed with that value; none fails the test."""
    reader = _FormReader(page.path)
    reader.feed(page.text)
    for form in reader.forms:
        if value is None and field in form.fields:
            return form
        if value is not None and form.has(field, value):
            form.hidden[field] = value
            return form
    raise AssertionError(f"no form with {field}={value} on {page.path}:\n{page.text}")


class _FormReader(html.parser.HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.page = page
        self.forms: list[Form] = []
        self.inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.forms.append(Form(self.page, values.get("action", ""), {}, set(), set()))
            self.inside = True
        elif self.inside and tag in ("input", "button") and "name" in values:
            self._field(tag, values)

    def handle_endtag(self, tag: str) -> None:
        self.inside = self.inside and tag != "form"

    def _field(self, tag: str, values: dict[str, str]) -> None:
        form, name, value = self.forms[-1], values["name"], values.get("value", "")
        form.fields.add(name)
        if tag == "button":
            form.buttons.add((name, value))
        elif values.get("type") == "hidden":
            form.hidden[name] = value
