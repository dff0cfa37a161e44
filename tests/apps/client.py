"""A client that stores cookies, trusts the development CA and fills in forms."""

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
# Sent by a browser when it navigates to a page. Other requests are API calls.
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


class Client:
    """One client of one host, with one cookie jar."""

    def __init__(self, gateway: Gateway, host: str, user_agent: str = "client/1.0"):
        self.host = host
        self.user_agent = user_agent
        self.port = gateway.port
        self.origin = f"https://{host}:{gateway.port}"
        self.cookies: dict[str, str] = {}
        self.tls = ssl.create_default_context(cafile=str(gateway.ca))
        self.tls.set_alpn_protocols(["http/1.1"])

    def log_in(self, user: User) -> Response:
        """Opens the login page and submits its form."""
        page = self.send("GET", "/.doorward/login", headers=NAVIGATION)
        form = find_form(page, "username")
        response = self.submit(form, username=user.name, password=user.password)
        if response.status != 303 or SESSION_COOKIE not in self.cookies:
            raise AssertionError(f"{user.name} could not log in: {response.status} {response.text}")
        return response

    def log_out(self) -> None:
        """Logs out with the form of the gateway."""
        page = self.send("GET", "/.doorward/logout", headers=NAVIGATION)
        self._submit_logout(find_form(page, "csrf"))

    def log_out_everywhere(self) -> None:
        """Ends all sessions of the user on the session page."""
        page = self.send("GET", "/.doorward/sessions", headers=NAVIGATION)
        confirmation = self.submit(find_form(page, "do", "confirm-all"))
        self._submit_logout(find_form(confirmation, "do", "end-all"))

    def _submit_logout(self, form: "Form") -> None:
        response = self.submit(form)
        if response.status not in (200, 303):
            raise AssertionError(f"could not log out: {response.status} {response.text}")

    def submit(self, form: "Form", **fields: str) -> Response:
        path = urlsplit(urljoin(self.origin + form.page, form.action)).path
        body = urlencode({**form.hidden, **fields}).encode()
        return self.send("POST", path, body, {**NAVIGATION, **FORM, "Origin": self.origin})

    def send(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Mapping[str, str] | list[tuple[str, str]] = (),
    ) -> Response:
        """Sends one request on a new connection. `headers` as pairs allows duplicates."""
        connection = self.open(method, path, body, headers)
        try:
            received = connection.getresponse()
            response = Response(path, received.status, received.headers, received.read())
        finally:
            connection.close()
        self._store_cookies(response.headers)
        return response

    def open(self, method, path, body=b"", headers=()) -> http.client.HTTPConnection:
        """Sends a request and returns the connection with the unread response."""
        connection = http.client.HTTPSConnection(self.host, self.port)
        connection.sock = self._tls_socket()
        connection.putrequest(method, path, skip_accept_encoding=True)
        for name, value in [("User-Agent", self.user_agent), *pairs(headers)]:
            connection.putheader(name, value)
        if self.cookies:
            connection.putheader("Cookie", self._cookie_header())
        if body or method in ("POST", "PUT"):
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body or None)
        return connection

    def websocket(self, path: str, headers: list[tuple[str, str]] = ()) -> connect:
        """Prepares a WebSocket as a page of this host opens it. Entering it performs the handshake."""
        return connect(
            f"wss://{self.host}:{self.port}{path}",
            sock=socket.create_connection(("127.0.0.1", self.port), TIMEOUT_SECONDS),
            ssl=self.tls,
            server_hostname=self.host,
            origin=self.origin,
            user_agent_header=self.user_agent,
            additional_headers=[("Cookie", self._cookie_header()), *headers],
            open_timeout=TIMEOUT_SECONDS,
            close_timeout=2,
            max_size=None,
        )

    def _tls_socket(self) -> ssl.SSLSocket:
        # Browsers map *.localhost to loopback, but not every resolver does.
        plain = socket.create_connection(("127.0.0.1", self.port), TIMEOUT_SECONDS)
        return self.tls.wrap_socket(plain, server_hostname=self.host)

    def _cookie_header(self) -> str:
        return "; ".join(f"{name}={value}" for name, value in self.cookies.items())

    def _store_cookies(self, headers: http.client.HTTPMessage) -> None:
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


def find_form(page: Response, field: str, value: str | None = None) -> Form:
    """Returns the form that has the field, with that value if given. Fails if there is none."""
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
