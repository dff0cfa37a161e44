"""Unusual and invalid requests, and some ordinary ones."""

import dataclasses

# Forged values. No app may receive them.
EVIL = "evil"
# The target of a request inside a body. An app that receives it parsed the body as a second request.
SMUGGLED = "/smuggled"


@dataclasses.dataclass(frozen=True)
class UnusualRequest:
    name: str
    target: str = "/a"
    method: str = "GET"
    lines: tuple[str, ...] = ()
    body: bytes = b""
    # Length of the body for a correct parser; None if there is no single correct length.
    length: int | None = None

    def serialize(self, host: str, cookie: str = "") -> bytes:
        """Returns the bytes. A line that begins with `Host` replaces the default one."""
        lines = [line.replace("HOST", host) for line in self.lines]
        if not any(line.lower().startswith("host") for line in lines):
            lines.insert(0, f"Host: {host}")
        if cookie:
            lines.append(f"Cookie: {cookie}")
        if not any(line.lower().startswith("connection") for line in lines):
            lines.append("Connection: close")
        target = self.target.replace("HOST", host)
        head = f"{self.method} {target} HTTP/1.1\r\n" + "".join(f"{line}\r\n" for line in lines)
        return head.encode("latin-1") + b"\r\n" + self.body


TARGETS = """
/ /a /a/ /a/b.c/d /a%20b /caf%C3%A9 /caf%c3%a9 /%41%62 /a+b /a~b!$&'()*,= /a:b@c /..a/b.. /a. /a?
/a?x=/../y;z /a??b /a?b?c /a?%00 /a?%2e%2e/%2f /a?a%0d%0ab /a%2fb /a%2Fb /a%5cb /a\\b /a\\..\\b /a%2 /a% /a%zz
/a%00 /a%00.txt /a%0a /a%0d%0aX-Evil:1 /a%7f /a%25 /a%252fb /a%25%32%66b /a%ff /a%c0%af /a%c0%ae%c0%ae/ /%e2%80%ae
/a%ef%bc%8fb //a /a//b /a///b ///a //evil.test/a /./a /a/./b /a/. /a/.. /a/../b /../b /a/%2e%2e/b /a/.%2e/b
/a/%2e/b /a/..;/b /a;x=1 /a;x=1/b /;/a /a/;x/b /a%3bx /a%3f/b /a%23/b /a#b /a#/../b ?x * a /a/%%30%30
/.doorward/../a /.doorward;/login /.DOORWARD/login /%2edoorward/login
http://HOST/a https://HOST/a https://HOST https://HOST?x https://u@HOST/a https://evil.test/a HTTPS://HOST/a
""".split()

SPELLINGS = (
    "X-Forwarded-User", "x-forwarded-user", "X_Forwarded_User", "X-Forwarded_User", "X.Forwarded.User",
    "X~Forwarded~User", "HTTP_X_FORWARDED_USER", "Remote-User", "REMOTE_USER", "X-Remote-User",
    "X-Original-URL", "X-Evil_", "Proxy",
)  # fmt: skip

HOSTS = (
    ("Host: HOST", "Host: evil.test"), ("Host: evil.test", "Host: HOST"), ("Host: HOST,evil.test",),
    ("Host: HOST:80@evil.test",), ("Host: evil.test#HOST",), ("Host: HOST/",), ("Host: HOST.",), ("Host:HOST",),
    ("Host : HOST",), ("Host:  HOST  ",), ("hOsT: HOST",), ("Host: ",), ("Host: HOST:",), ("Host: HOST:0",),
    ("Host: HOST\r\n evil.test",), ("Host: HOST", "X-Forwarded-Host: evil.test"),
    ("Host: HOST", "Forwarded: host=evil.test"),
)  # fmt: skip

SMUGGLED_REQUEST = f"GET {SMUGGLED} HTTP/1.1\r\nHost: HOST\r\n\r\n".encode()

FRAMINGS = (
    (("Content-Length: 4",), b"body", 4),
    (("Content-Length: 004",), b"body", 4),
    (("Content-Length: 4", "Content-Length: 4"), b"body", 4),
    (("Content-Length: 4, 4",), b"body", 4),
    (("Content-Length: +4",), b"body", 4),
    (("Content-Length: 0x4",), b"body", 4),
    (("Content-Length: 4 ",), b"body", 4),
    (("Content_Length: 99", "Content-Length: 4"), b"body", 4),
    (("Content-Length: 4", "Expect: 100-continue"), b"body", 4),
    (("Transfer-Encoding: chunked",), b"4\r\nbody\r\n0\r\n\r\n", 4),
    (("Transfer-Encoding: Chunked",), b"4;x=y\r\nbody\r\n0\r\nX-Forwarded-User: evil\r\n\r\n", 4),
    (("Transfer-Encoding: chunked",), b"4\nbody\n0\n\n", None),
    (("Transfer-Encoding: chunked",), b"4;\nbody\r\n0\r\n\r\n", None),
    (("Transfer-Encoding: chunked",), b"04\r\nbody\r\n00\r\n\r\n", 4),
    (("Transfer-Encoding: chunked, identity",), b"0\r\n\r\n" + SMUGGLED_REQUEST, None),
    (("Transfer-Encoding: identity, chunked",), b"0\r\n\r\n", None),
    (("Transfer-Encoding: xchunked", "Content-Length: 4"), b"body", None),
    (("Transfer_Encoding: chunked", "Content-Length: 4"), b"body", 4),
    (("Transfer-Encoding : chunked", "Content-Length: 4"), b"body", None),
    (("Transfer-Encoding:\x0bchunked", "Content-Length: 4"), b"body", None),
    (("Content-Length: 5", "Transfer-Encoding: chunked"), b"0\r\n\r\n" + SMUGGLED_REQUEST, None),
    (("Transfer-Encoding: chunked", "Content-Length: 5"), b"0\r\n\r\n" + SMUGGLED_REQUEST, None),
    (("Transfer-Encoding: chunked", "Transfer-Encoding: identity"), b"0\r\n\r\n" + SMUGGLED_REQUEST, None),
    ((), SMUGGLED_REQUEST, None),
)  # fmt: skip

OTHER_REQUESTS = (
    UnusualRequest("Connection names reserved headers", lines=("Connection: close, X-Forwarded-User, Host, Cookie",)),
    UnusualRequest("Connection names a header of the app", lines=("Connection: close, X-Evil", f"X-Evil: {EVIL}")),
    UnusualRequest(
        "h2c",
        lines=("Connection: close, Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"),
    ),
    UnusualRequest("eighty headers", lines=tuple(f"X-Header-{number}: {number}" for number in range(80))),
    UnusualRequest("long header", lines=("X-Long: " + "x" * 6000,)),
    UnusualRequest("long target", target="/" + "a" * 3000),
    UnusualRequest("long query", target="/a?" + "b" * 3000),
    UnusualRequest("latin-1 in a value", lines=("X-Latin: caf\xe9",)),
    UnusualRequest("folded line", lines=(f"X-A: b\r\n X-Forwarded-User: {EVIL}",)),
    UnusualRequest("bare line feed", lines=(f"X-A: b\nX-Forwarded-User: {EVIL}",)),
    UnusualRequest("bare carriage return", lines=(f"X-A: b\rX-Forwarded-User: {EVIL}",)),
    UnusualRequest("nul", lines=("X-A: b\0c",)),
    UnusualRequest("empty name", lines=(": x", f"X-Forwarded-User: {EVIL}")),
    UnusualRequest("range", lines=("Range: bytes=0-1",)),
    UnusualRequest("max-forwards", method="OPTIONS", lines=("Max-Forwards: 0",)),
    UnusualRequest("options", method="OPTIONS"),
    UnusualRequest("head", method="HEAD"),
    UnusualRequest("trace", method="TRACE"),
    UnusualRequest("connect", method="CONNECT", target="HOST:443"),
    UnusualRequest("unknown method", method="FOO"),
    UnusualRequest("method in lower case", method="get"),
    UnusualRequest(
        "websocket without a key",
        lines=("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"),
    ),
)  # fmt: skip


def requests() -> list[UnusualRequest]:
    out = [UnusualRequest(f"target {target}", target) for target in TARGETS]
    out += [UnusualRequest(f"spelling {name}", lines=(f"{name}: {EVIL}",)) for name in SPELLINGS]
    out += [UnusualRequest(f"host {' | '.join(lines)!r}", lines=lines) for lines in HOSTS]
    for lines, body, length in FRAMINGS:
        for method in ("POST", "GET"):
            out.append(UnusualRequest(f"{method} {' | '.join(lines)!r}", "/a", method, lines, body, length))
    return [*out, *OTHER_REQUESTS]
