"""Well-behaved clients: users with a session who send requests at a constant rate.

    users.py PORT CA COOKIE      prints "ready" when all users are connected, and stops at the end of its input;
                                 then prints one line per response: time in seconds, latency in ms, status

The latency counts from the time at which a request is due, so a delayed response also delays the next request.
"""

import asyncio
import ssl
import sys
import time

CLIENTS = 20
PER_SECOND = 10
ADDRESS = ("127.0.0.2", 0)
TIMEOUT_SECONDS = 10

responses: list[tuple[float, float, int]] = []


async def connect(port: int, tls: ssl.SSLContext):
    return await asyncio.open_connection(
        "127.0.0.1", port, ssl=tls, server_hostname="localhost", local_addr=ADDRESS
    )


async def exchange(reader, writer, request: bytes) -> int:
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            await reader.readexactly(int(line.split(b":")[1]))
    return int(head[9:12])


async def client(number: int, port: int, tls: ssl.SSLContext, request: bytes) -> None:
    stream = None
    due = time.monotonic() + number / CLIENTS / PER_SECOND
    while True:
        await asyncio.sleep(due - time.monotonic())
        status = 0
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                stream = stream or await connect(port, tls)
                status = await exchange(*stream, request)
        except (OSError, ssl.SSLError, asyncio.IncompleteReadError):
            stream = None
        now = time.monotonic()
        responses.append((now, (now - due) * 1000, status))
        due += 1 / PER_SECOND


async def main() -> None:
    port, ca, cookie = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    tls = ssl.create_default_context(cafile=ca)
    request = f"GET / HTTP/1.1\r\nHost: localhost\r\nCookie: {cookie}\r\n\r\n".encode()
    clients = [asyncio.create_task(client(n, port, tls, request)) for n in range(CLIENTS)]
    while len(responses) < 2 * CLIENTS:
        await asyncio.sleep(0.05)
    print("ready", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    for task in clients:
        task.cancel()
    for at, latency, status in responses:
        print(f"{at:.4f} {latency:.3f} {status}")


asyncio.run(main())
