"""What a client spends and what the gateway spends for it: processor time of both, as the kernel counts it.

    benches/floods/run --cost

The clients are OpenSSL's s_time and nghttp2's h2load, or Python where there is no such client; Python's
own time is then part of what the client spends, and a thriftier client would spend less.
"""

import contextlib
import pathlib
import re
import resource
import secrets
import socket
import ssl
import subprocess
import time
import urllib.parse
from collections.abc import Callable

import attack
from floods import HOST, app, cpu_seconds, gateway_pids
from front import Gateway, Route, gateway

HELLO = pathlib.Path(__file__).parents[2] / "tests/data/hello/chromium-fresh"
REQUESTS = 20_000
NESTED = "/%" + "25" * 70 + "/a" * 950


def main() -> None:
    with contextlib.ExitStack() as stack:
        front = stack.enter_context(gateway([Route(HOST, app(stack))]))
        cookie = "dw1_" + secrets.token_urlsafe(78)
        forged = f"cookie: __Host-doorward={cookie}"
        print("| what a client asks for | its CPU, µs | ours, µs | times |\n| --- | --- | --- | --- |")
        tell(front, "a whole TLS handshake (OpenSSL)", handshakes)
        tell(front, "a TLS handshake begun with bytes of before", hellos)
        tell(front, "a request without a cookie, HTTP/2", lambda front: h2load(front))
        tell(front, "a request with a forged cookie, HTTP/2", lambda front: h2load(front, forged))
        big = [f"x: {'y' * 3900}"] * 7
        tell(front, "a head of 27 KiB in some bytes of HPACK", lambda front: h2load(front, *big))
        tell(front, "the same at its full length, HTTP/1.1", lambda front: h2load(front, "--h1", *big))
        tell(front, "a path of nested escapes in some bytes of HPACK", paths)
        referer = f"referer: https://localhost:{front.port}{NESTED}"
        tell(front, "the same as Referer", lambda front: h2load(front, referer))
        tell(front, "a connection with 150 requests taken back", resets)
        tell(front, "a password", passwords)


def tell(front: Gateway, what: str, client: Callable[[Gateway], tuple[int, float]]) -> None:
    pids = gateway_pids(front)
    before = cpu_seconds(pids)
    count, spent = client(front)
    time.sleep(0.3)
    ours = cpu_seconds(pids) - before
    print(f"| {what} | {spent / count * 1e6:.0f} | {ours / count * 1e6:.0f} | {ours / spent:.1f} |", flush=True)


def of_children(argv: list[str], words: str = "") -> tuple[str, float]:
    def spent() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    before = spent()
    done = subprocess.run(argv, input=words, capture_output=True, text=True, timeout=120)
    return done.stdout, spent() - before


def handshakes(front: Gateway) -> tuple[int, float]:
    argv = ["openssl", "s_time", "-connect", f"127.0.0.1:{front.port}", "-new", "-time", "4"]
    out, spent = of_children(argv)
    return int(out.split(" connections in ")[0].split()[-1]), spent


def hellos(front: Gateway) -> tuple[int, float]:
    hello, before, count = HELLO.read_bytes(), time.process_time(), 2_000
    for _ in range(count):
        with socket.create_connection(("127.0.0.1", front.port)) as stream:
            stream.sendall(hello)
            stream.recv(1)
    return count, time.process_time() - before


def h2load(front: Gateway, *words: str) -> tuple[int, float]:
    fields = [word for line in words if line != "--h1" for word in ("-H", line)]
    more = [word for word in words if word == "--h1"]
    argv = ["h2load", "-n", str(REQUESTS), "-c", "4", "-m", "10", *more, *fields]
    out, spent = of_children([*argv, f"https://localhost:{front.port}/"])
    assert f"{REQUESTS} done" in out, out
    return REQUESTS, spent


def paths(front: Gateway) -> tuple[int, float]:
    """The first request puts the path into the table of HPACK; the others name its entry."""
    host, length = b"\x82\x87\x01\x09localhost", len(NESTED) - 127
    size = bytes([0x7F, length % 128 | 0x80, length // 128])
    heads = [host + b"\x44" + size + NESTED.encode()] + [host + b"\xbe"] * 99
    frames = [attack.frame(attack.HEADERS, 5, 2 * at + 1, block) for at, block in enumerate(heads)]
    flood = attack.PREFACE + attack.frame(attack.SETTINGS, 0, 0) + b"".join(frames)
    connections, spent = send_flood(front, flood)
    return connections * len(heads), spent


def resets(front: Gateway) -> tuple[int, float]:
    flood = attack.PREFACE + attack.frame(attack.SETTINGS, 0, 0) + b"".join(map(attack.reset, range(150)))
    return send_flood(front, flood)


def send_flood(front: Gateway, flood: bytes) -> tuple[int, float]:
    """Sends the bytes on 100 connections, and reads each until it is silent. Returns the number of connections and
    the seconds of CPU time of this process."""
    tls, before, count = attack.context("h2"), time.process_time(), 100
    for _ in range(count):
        plain = socket.create_connection(("127.0.0.1", front.port))
        with tls.wrap_socket(plain, server_hostname=HOST) as stream, contextlib.suppress(OSError):
            stream.settimeout(0.2)
            stream.sendall(flood)
            while stream.recv(65536):
                pass
    return count, time.process_time() - before


def passwords(front: Gateway) -> tuple[int, float]:
    """Each attempt has another name and another network, so no rate limit applies."""
    before, count = time.process_time(), 30
    for number in range(count):
        form = {"username": f"user{number}", "password": "guess"}
        at = ("127.0.0.1", front.port), 5, (f"127.{number + 1}.0.1", 0)
        tls = ssl._create_unverified_context()
        with tls.wrap_socket(socket.create_connection(*at), server_hostname=HOST) as stream:
            attempt(stream, front.port, form)
    return count, time.process_time() - before


def attempt(stream: ssl.SSLSocket, port: int, form: dict[str, str]) -> None:
    stream.sendall(b"GET /.doorward/login HTTP/1.1\r\nHost: localhost\r\nAccept: text/html\r\n\r\n")
    page = b""
    while b"</html>" not in page:
        page += stream.recv(65536)
    cookies = b"; ".join(re.findall(rb"set-cookie: ([^;]*)", page, re.IGNORECASE)).decode()
    csrf = re.search(rb'name="csrf"[^>]*value="([^"]*)"', page).group(1).decode()
    text = urllib.parse.urlencode({**form, "csrf": csrf})
    head = (
        f"POST /.doorward/login HTTP/1.1\r\nHost: localhost:{port}\r\nOrigin: https://localhost:{port}\r\n"
        f"Content-Type: application/x-www-form-urlencoded\r\nCookie: {cookies}\r\n"
        f"Content-Length: {len(text)}\r\n\r\n{text}"
    )
    stream.sendall(head.encode())
    response = stream.recv(65536)
    assert response.startswith(b"HTTP/1.1 401 "), response


if __name__ == "__main__":
    main()
