"""HTTP/2 frame by frame: an invalid frame ends its stream or its connection, and affects no other client.

The cases follow the sections of RFC 9113. `STREAM` is RST_STREAM or a 4xx, `CONNECTION` is GOAWAY or the end of the
connection, `FINE` is a response.
"""

import dataclasses
import enum
import pathlib
import shutil
import ssl
import struct
import tempfile
import unittest

import apps
import hpack
from gateway_process import Gateway, Route, start_gateway
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    ExtensionFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

HOST = "raw.frames.localhost"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD = [(":method", "GET"), (":scheme", "https"), (":authority", HOST), (":path", "/a")]
POST = [(":method", "POST"), *HEAD[1:]]


class Outcome(enum.Enum):
    FINE = "a response"
    STREAM = "the end of the stream, or a 4xx"
    CONNECTION = "the end of the connection"
    SILENCE = "nothing"


FINE, STREAM, CONNECTION = Outcome.FINE, Outcome.STREAM, Outcome.CONNECTION
REFUSED = (STREAM, CONNECTION)


@dataclasses.dataclass(frozen=True)
class Case:
    section: str
    what: str
    sent: bytes
    expected: tuple[Outcome, ...]
    # Sent instead of the preface and the client settings.
    opening: bytes = PREFACE + SettingsFrame(0).serialize()


def block(fields=HEAD, **more: str) -> bytes:
    extra = [(name.replace("_", "-"), value) for name, value in more.items()]
    return hpack.Encoder().encode([*fields, *extra], huffman=False)


def raw_block(*fields: tuple[bytes, bytes]) -> bytes:
    """Encodes literals without indexing, including headers that an encoder rejects."""
    out = b""
    for name, value in fields:
        out += b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value
    return out


def headers(data: bytes, stream: int = 1, flags=("END_HEADERS", "END_STREAM")) -> bytes:
    return HeadersFrame(stream, data, flags=flags).serialize()


def get(stream: int = 1) -> bytes:
    return headers(block(), stream)


def open_post(stream: int = 1, **more: str) -> bytes:
    return headers(block(POST, **more), stream, ("END_HEADERS",))


def data(stream: int, body: bytes, *flags: str) -> bytes:
    return DataFrame(stream, body, flags=flags).serialize()


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Serializes any frame, including frames that libraries reject."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def settings(number: int, value: int) -> bytes:
    return frame(4, 0, 0, struct.pack(">HI", number, value))


def without(name: str) -> bytes:
    return headers(block([field for field in HEAD if field[0] != name]))


def replaced(name: str, value: str) -> bytes:
    return headers(block([(field, value if field == name else old) for field, old in HEAD]))


PLAIN = [(name.encode(), value.encode()) for name, value in HEAD]
BIG = 2**31 - 1

CASES = [
    Case("3.4", "a plain request", get(), (FINE,)),
    Case("3.4", "a wrong preface", b"", (CONNECTION,), b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n" + b"\0" * 64),
    Case(
        "3.4", "no settings first",
        b"", (CONNECTION, Outcome.SILENCE), PREFACE + PingFrame(0, b"8 octets").serialize(),
    ),
    Case("4.1", "an unknown frame is ignored", frame(0xFA, 0, 0, b"x") + get(), (FINE,)),
    Case("4.1", "reserved bit is ignored", frame(6, 0, 1 << 31, b"8 octets") + get(), (FINE,)),
    Case("4.2", "a frame above the maximum", frame(0, 0, 1, b"x" * 20_000), (CONNECTION,)),
    Case("4.2", "HEADERS above the maximum", frame(1, 5, 1, b"\0" * 20_000), (CONNECTION,)),
    Case("4.3", "a block that does not decode", headers(b"\xff\xff\xff\xff\xff\xff"), (CONNECTION,)),
    Case("4.3", "an index without an entry", headers(b"\xfe"), (CONNECTION,)),
    Case("4.3", "a table larger than allowed", headers(b"\x3f\xff\xff\x03" + block()), (CONNECTION,)),
    Case("5.1", "DATA on an idle stream", data(1, b"x"), (CONNECTION,)),
    Case("5.1", "RST_STREAM on an idle stream", RstStreamFrame(1, 8).serialize(), (CONNECTION,)),
    Case("5.1", "WINDOW_UPDATE on an idle stream", WindowUpdateFrame(1, 1).serialize(), (CONNECTION,)),
    Case("5.1", "CONTINUATION on an idle stream", ContinuationFrame(1, b"").serialize(), (CONNECTION,)),
    Case("5.1", "DATA after the end of a stream", get() + data(1, b"x"), (*REFUSED, FINE)),
    Case("5.1", "HEADERS after the end of a stream", get() + get(), REFUSED),
    Case(
        "5.1", "DATA after RST_STREAM",
        open_post() + RstStreamFrame(1, 8).serialize() + data(1, b"x"), (*REFUSED, Outcome.SILENCE),
    ),
    Case("5.1.1", "an even stream", get(2), (CONNECTION,)),
    Case("5.1.1", "a stream before the last one", get(5) + get(3), (CONNECTION, FINE)),
    Case("5.3.1", "a stream that depends on itself", PriorityFrame(1, 1, 15).serialize() + get(), (FINE, *REFUSED)),
    Case(
        "5.5", "an extension inside a block",
        headers(block(), 1, ()) + ExtensionFrame(0xFA, 1, body=b"x", flag_byte=0).serialize(), (CONNECTION,),
    ),
    Case("6.1", "DATA on stream 0", frame(0, 0, 0, b"x"), (CONNECTION,)),
    Case("6.1", "padding longer than DATA", open_post() + frame(0, 9, 1, b"\x06abc"), (CONNECTION,)),
    Case("6.2", "HEADERS on stream 0", frame(1, 5, 0, block()), (CONNECTION,)),
    Case("6.2", "padding longer than HEADERS", frame(1, 13, 1, b"\xff" + block()), (CONNECTION,)),
    Case("6.2", "another frame inside a block", headers(block(), 1, ()) + data(1, b"x"), (CONNECTION,)),
    Case("6.2", "another stream inside a block", headers(block(), 1, ()) + get(3), (CONNECTION,)),
    Case("6.3", "PRIORITY on stream 0", frame(2, 0, 0, b"\0\0\0\0\1"), (CONNECTION,)),
    Case("6.3", "PRIORITY of a wrong length", frame(2, 0, 1, b"\0\0\0\0"), REFUSED),
    Case("6.4", "RST_STREAM on stream 0", frame(3, 0, 0, b"\0\0\0\0"), (CONNECTION,)),
    Case("6.4", "RST_STREAM of a wrong length", open_post() + frame(3, 0, 1, b"\0\0\0"), (CONNECTION,)),
    Case("6.5", "an acknowledgement with content", frame(4, 1, 0, b"\0\1\0\0\0\0"), (CONNECTION,)),
    Case("6.5", "SETTINGS on a stream", frame(4, 0, 1, b""), (CONNECTION,)),
    Case("6.5", "SETTINGS of a wrong length", frame(4, 0, 0, b"\0\1\0"), (CONNECTION,)),
    Case("6.5.2", "ENABLE_PUSH of 2", settings(2, 2), (CONNECTION,)),
    Case("6.5.2", "a window above the maximum", settings(4, 2**31), (CONNECTION,)),
    Case("6.5.2", "frames below the least maximum", settings(5, 16_383), (CONNECTION,)),
    Case("6.5.2", "frames above the greatest maximum", settings(5, 2**24), (CONNECTION,)),
    Case("6.5.2", "an unknown setting is ignored", settings(0xFA, 1) + get(), (FINE,)),
    Case("6.6", "PUSH_PROMISE from a client", frame(5, 4, 1, b"\0\0\0\2" + block()), (CONNECTION,)),
    Case("6.7", "PING on a stream", frame(6, 0, 1, b"8 octets"), (CONNECTION,)),
    Case("6.7", "PING of a wrong length", frame(6, 0, 0, b"6 octe"), (CONNECTION,)),
    Case("6.8", "GOAWAY on a stream", frame(7, 0, 1, b"\0" * 8), (CONNECTION,)),
    Case("6.9", "WINDOW_UPDATE of 0 on the connection", frame(8, 0, 0, b"\0\0\0\0"), (CONNECTION,)),
    Case("6.9", "WINDOW_UPDATE of 0 on a stream", open_post() + frame(8, 0, 1, b"\0\0\0\0"), REFUSED),
    Case("6.9", "WINDOW_UPDATE of a wrong length", frame(8, 0, 0, b"\0\0\1"), (CONNECTION,)),
    Case("6.9.1", "a window that overflows", 2 * WindowUpdateFrame(0, BIG).serialize(), (CONNECTION,)),
    Case("6.9.1", "a stream's window that overflows", open_post() + 2 * WindowUpdateFrame(1, BIG).serialize(), REFUSED),
    Case("6.10", "CONTINUATION after the end of a block", get() + ContinuationFrame(1, b"").serialize(), (CONNECTION,)),
    Case(
        "6.10", "a block in two frames",
        headers(block()[:5], 1, ("END_STREAM",)) + ContinuationFrame(1, block()[5:], flags=("END_HEADERS",)).serialize(),
        (FINE,),
    ),
    Case(
        "8.1", "HEADERS in the middle of a body",
        open_post() + headers(block([("x-a", "b")]), 1, ("END_HEADERS",)), REFUSED,
    ),
    Case(
        "8.1.1", "a shorter body than declared",
        open_post(content_length="9") + data(1, b"four", "END_STREAM"), REFUSED,
    ),
    Case(
        "8.1.1", "a longer body than declared",
        open_post(content_length="2") + data(1, b"four", "END_STREAM"), REFUSED,
    ),
    Case(
        "8.1.1", "two lengths",
        headers(raw_block(*PLAIN, (b"content-length", b"0"), (b"content-length", b"1"))), REFUSED,
    ),
    Case("8.2", "a name in upper case", headers(raw_block(*PLAIN, (b"X-A", b"b"))), REFUSED),
    Case("8.2", "an empty name", headers(raw_block(*PLAIN, (b"", b"b"))), REFUSED),
    Case("8.2.1", "a colon in a name", headers(raw_block(*PLAIN, (b"x:a", b"b"))), REFUSED),
    Case("8.2.1", "a space in a name", headers(raw_block(*PLAIN, (b"x a", b"b"))), REFUSED),
    Case(
        "8.2.1", "a line end in a value",
        headers(raw_block(*PLAIN, (b"x-a", b"b\r\nx-forwarded-user: evil"))), REFUSED,
    ),
    Case("8.2.1", "a NUL in a value", headers(raw_block(*PLAIN, (b"x-a", b"b\0c"))), REFUSED),
    Case("8.2.2", "Connection", headers(block(connection="close")), REFUSED),
    Case("8.2.2", "Transfer-Encoding", headers(block(transfer_encoding="chunked")), REFUSED),
    Case("8.2.2", "TE other than trailers", headers(block(te="gzip")), REFUSED),
    Case("8.2.2", "TE trailers", headers(block(te="trailers")), (FINE,)),
    Case("8.3", "an unknown pseudo-header", headers(raw_block(*PLAIN, (b":user", b"alice"))), REFUSED),
    Case("8.3", "a pseudo-header of responses", headers(raw_block(*PLAIN, (b":status", b"200"))), REFUSED),
    Case("8.3", "a pseudo-header after other headers", headers(raw_block((b"x-a", b"b"), *PLAIN)), REFUSED),
    Case("8.3", "a pseudo-header in trailers", open_post() + headers(raw_block((b":path", b"/b"))), (*REFUSED, FINE)),
    Case("8.3.1", "no method", without(":method"), REFUSED),
    Case("8.3.1", "no scheme", without(":scheme"), REFUSED),
    Case("8.3.1", "no path", without(":path"), REFUSED),
    Case("8.3.1", "no authority", without(":authority"), REFUSED),
    Case("8.3.1", "an empty path", replaced(":path", ""), REFUSED),
    Case("8.3.1", "a path without a slash", replaced(":path", "a"), REFUSED),
    Case("8.3.1", "a query without a path", replaced(":path", "?a"), REFUSED),
    Case("8.3.1", "a URL as path", replaced(":path", f"https://{HOST}/a"), REFUSED),
    Case("8.3.1", "an asterisk in a GET", replaced(":path", "*"), REFUSED),
    Case("8.3.1", "the other scheme", replaced(":scheme", "http"), REFUSED),
    Case("8.3.1", "userinfo", replaced(":authority", f"u@{HOST}"), REFUSED),
    Case("8.3.1", "another host", headers(block(host="evil.test")), REFUSED),
    Case("8.3.1", "two paths", headers(raw_block(*PLAIN, (b":path", b"/b"))), REFUSED),
    Case("8.5", "CONNECT", headers(block([(":method", "CONNECT"), (":authority", "evil.test:443")])), REFUSED),
    Case(
        "RFC 8441", "CONNECT with a protocol",
        headers(block([(":method", "CONNECT"), (":protocol", "websocket"), *HEAD[1:]])), REFUSED,
    ),
]  # fmt: skip


class Frames(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.home = pathlib.Path(tempfile.mkdtemp(prefix="doorward-frames-"))
        cls.addClassCleanup(shutil.rmtree, cls.home, ignore_errors=True)
        port = cls.enterClassContext(apps.app("raw", cls.home))
        route = Route(HOST, f"http://127.0.0.1:{port}", "public")
        cls.gateway = cls.enterClassContext(start_gateway([route]))

    def test_each_case_ends_as_the_rfc_requires(self) -> None:
        for case in CASES:
            with self.subTest(section=case.section, what=case.what):
                outcome = run(self.gateway, case)
                self.assertIn(outcome, case.expected, case.what)
        self.assertGreater(len(CASES), 80)
        self.assertEqual(run(self.gateway, CASES[0]), FINE, "other clients are still served")
        targets = apps.targets("raw", self.home)
        self.assertNotIn("evil", targets)
        self.assertNotIn("/b", targets)
        print(f"\nframes: {len(CASES)} cases of RFC 9113")

    def test_a_ping_is_acknowledged_with_its_payload(self) -> None:
        with self.gateway.connect(HOST, "h2") as stream:
            stream.sendall(PREFACE + SettingsFrame(0).serialize())
            stream.sendall(PingFrame(0, b"8 octets").serialize())
            pong = next(received for received in frames(stream) if isinstance(received, PingFrame))
            self.assertEqual((pong.opaque_data, set(pong.flags)), (b"8 octets", {"ACK"}))

    def test_streams_above_the_limit_are_refused(self) -> None:
        with self.gateway.connect(HOST, "h2") as stream:
            streams = range(1, 2 * 150, 2)
            stream.sendall(PREFACE + SettingsFrame(0).serialize())
            # The requests do not end, so all streams are open at the same time.
            encoder = hpack.Encoder()
            for number in streams:
                stream.sendall(headers(encoder.encode(POST), number, ("END_HEADERS",)))
            refused, limit = set(), None
            for received in frames(stream):
                if isinstance(received, SettingsFrame) and "ACK" not in received.flags:
                    limit = received.settings.get(SettingsFrame.MAX_CONCURRENT_STREAMS)
                if isinstance(received, RstStreamFrame | GoAwayFrame):
                    refused.add(received.stream_id)
                if isinstance(received, GoAwayFrame) or len(refused) >= len(streams) - 100:
                    break
            self.assertEqual(limit, 100)
            self.assertTrue(refused == {0} or min(refused) > 2 * 100 - 1, sorted(refused))


def run(gateway: Gateway, case: Case) -> Outcome:
    """Sends the bytes of a case. Returns the outcome of stream 1 or of the connection."""
    with gateway.connect(HOST, "h2") as stream:
        stream.settimeout(3)
        try:
            stream.sendall(case.opening + case.sent)
            # A connection that is still open acknowledges this frame.
            stream.sendall(PingFrame(0, b"the last").serialize())
            return outcome(stream)
        except (ConnectionError, ssl.SSLError):
            return CONNECTION


def outcome(stream: ssl.SSLSocket) -> Outcome:
    acknowledged = False
    try:
        for received in frames(stream):
            if isinstance(received, GoAwayFrame):
                return CONNECTION
            if isinstance(received, RstStreamFrame):
                return STREAM
            if isinstance(received, HeadersFrame):
                # 0x88 is `:status: 200` in the static table (RFC 7541, appendix A).
                return FINE if received.data[0] == 0x88 else STREAM
            if isinstance(received, PingFrame) and not acknowledged:
                acknowledged = True
                stream.settimeout(1)
    except (TimeoutError, StopIteration):
        return Outcome.SILENCE
    except (ConnectionError, ssl.SSLError):
        return CONNECTION
    return CONNECTION


def frames(stream: ssl.SSLSocket):
    """Yields frames until the end of the connection."""
    while head := read_exactly(stream, 9):
        received, length = Frame.parse_frame_header(memoryview(head))
        received.parse_body(memoryview(read_exactly(stream, length)))
        yield received


def read_exactly(stream: ssl.SSLSocket, length: int) -> bytes:
    out = b""
    while len(out) < length:
        chunk = stream.recv(length - len(out))
        if not chunk:
            return b""
        out += chunk
    return out


if __name__ == "__main__":
    unittest.main()
