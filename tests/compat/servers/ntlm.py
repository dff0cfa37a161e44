"""Emulates IIS with Windows authentication: the user belongs to the TCP connection.

It sends a real NTLM challenge and reads the user from the client's message without a check of the password.
"""

import base64
import socketserver
import struct
import sys
import time

UNICODE, TARGET, NTLM, ALWAYS_SIGN = 0x1, 0x4, 0x200, 0x8000
DOMAIN, EXTENDED, TARGET_INFO = 0x10000, 0x80000, 0x800000
FLAGS = UNICODE | TARGET | NTLM | ALWAYS_SIGN | DOMAIN | EXTENDED | TARGET_INFO


def challenge() -> bytes:
    """A CHALLENGE_MESSAGE (MS-NLMP 2.2.1.2)."""
    name = "CORP".encode("utf-16-le")
    filetime = int((time.time() + 11644473600) * 10_000_000)
    pairs = [(2, name), (1, "APP".encode("utf-16-le")), (7, struct.pack("<Q", filetime)), (0, b"")]
    info = b"".join(struct.pack("<HH", number, len(value)) + value for number, value in pairs)
    head = b"NTLMSSP\0" + struct.pack("<I", 2)
    head += struct.pack("<HHI", len(name), len(name), 56)
    head += struct.pack("<I", FLAGS) + b"8 bytes!" + bytes(8)
    head += struct.pack("<HHI", len(info), len(info), 56 + len(name)) + bytes(8)
    return head + name + info


def user_of(message: bytes) -> str:
    """The user of an AUTHENTICATE_MESSAGE (MS-NLMP 2.2.1.3)."""
    length, _, offset = struct.unpack_from("<HHI", message, 36)
    return message[offset : offset + length].decode("utf-16-le")


class Connection(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        self.user, self.challenged = None, False
        while (head := self._head()) is not None:
            self.rfile.read(int(head.get("content-length", "0")))
            self.wfile.write(self._respond(head.get("authorization", "")))

    def _respond(self, credentials: str) -> bytes:
        scheme, _, token = credentials.partition(" ")
        offer = "NTLM"
        if scheme.upper() == "NTLM":
            message = base64.b64decode(token)
            kind = struct.unpack_from("<I", message, 8)[0]
            if kind == 1:
                self.user, self.challenged = None, True
                offer = f"NTLM {base64.b64encode(challenge()).decode()}"
            elif kind == 3 and self.challenged:
                self.user = user_of(message)
        if self.user is None:
            return (
                f"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: {offer}\r\n"
                "Content-Length: 4\r\n\r\nnone"
            ).encode()
        body = f"hello {self.user}".encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}"
        return f"{head}\r\nPersistent-Auth: true\r\n\r\n".encode() + body

    def _head(self) -> dict[str, str] | None:
        """The headers, with names in lower case; None at the end of the connection."""
        if not self.rfile.readline():
            return None
        headers = {}
        while (line := self.rfile.readline().strip()) != b"":
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        return headers


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


if __name__ == "__main__":
    Server(("127.0.0.1", int(sys.argv[1])), Connection).serve_forever()
