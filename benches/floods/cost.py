"""Measures the CPU time that one request costs the client and the gateway.

    benches/floods/run --cost

Prints the table of SECURITY.md. The clients are OpenSSL's s_time and nghttp2's h2load. Rows with a dagger use a Python
client, which needs more CPU time than necessary, so their ratio is too low.
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
from floods import HOST, cpu_seconds, gateway_pids, start_app
from gateway_process import Gateway, Route, start_gateway

CLIENT_HELLO = pathlib.Path(__file__).parents[2] / "tests/data/hello/chromium-fresh"
REQUESTS = 20_000
# An expensive path: percent signs encoded 70 times, then 950 segments.
NESTED_PATH = "/%" + "25" * 70 + "/a" * 950


def main() -> None:
    with contextlib.ExitStack() as stack:
        gateway = stack.enter_context(start_gateway([Route(HOST, start_app(stack))]))
        cookie = "dw1_" + secrets.token_urlsafe(78)
        forged = f"cookie: __Host-doorward={cookie}"
        large_head = [f"x: {'y' * 3900}"] * 7
        referer = f"referer: https://localhost:{gateway.port}{NESTED_PATH}"
        print("| request | client CPU, µs | gateway CPU, µs | ratio |\n| --- | --- | --- | --- |")
        measure(gateway, "complete TLS handshake", handshakes)
        measure(gateway, "TLS handshake that is abandoned after a recorded first message †", abandoned_handshakes)
        measure(gateway, "request without a cookie, HTTP/2", h2load)
        measure(gateway, "request with a forged cookie, HTTP/2", lambda it: h2load(it, forged))
        measure(gateway, "27 KiB request head, compressed to a few bytes by HPACK", lambda it: h2load(it, *large_head))
        measure(gateway, "the same head, HTTP/1.1", lambda it: h2load(it, *large_head, http1=True))
        measure(gateway, "path of nested escapes, compressed to a few bytes by HPACK †", nested_paths)
        measure(gateway, "the same path in `Referer`", lambda it: h2load(it, referer))
        measure(gateway, "connection with 150 requests that are reset at once †", resets)
        measure(gateway, "login with a password †", logins)


def measure(gateway: Gateway, request: str, run_client: Callable[[Gateway], tuple[int, float]]) -> None:
    """Prints one row. `run_client` returns the number of requests and the client's CPU time in seconds."""
    pids = gateway_pids(gateway)
    before = cpu_seconds(pids)
    count, client = run_client(gateway)
    # The gateway ends its connections after the last response.
    time.sleep(0.3)
    own = cpu_seconds(pids) - before
    cells = f"{client / count * 1e6:,.0f} | {own / count * 1e6:,.0f} | {own / client:.1f}"
    print(f"| {request} | {cells} |", flush=True)


def run_child(argv: list[str]) -> tuple[str, float]:
    """Runs a client. Returns its output and its CPU time in seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done.stdout, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def handshakes(gateway: Gateway) -> tuple[int, float]:
    argv = ["openssl", "s_time", "-connect", f"127.0.0.1:{gateway.port}", "-new", "-time", "4"]
    output, seconds = run_child(argv)
    return int(output.split(" connections in ")[0].split()[-1]), seconds


def abandoned_handshakes(gateway: Gateway) -> tuple[int, float]:
    hello, before, count = CLIENT_HELLO.read_bytes(), time.process_time(), 2_000
    for _ in range(count):
        with socket.create_connection(("127.0.0.1", gateway.port)) as stream:
            stream.sendall(hello)
            stream.recv(1)
    return count, time.process_time() - before


def h2load(gateway: Gateway, *headers: str, http1: bool = False) -> tuple[int, float]:
    options = ["--h1"] if http1 else []
    for header in headers:
        options += ["-H", header]
    argv = ["h2load", "-n", str(REQUESTS), "-c", "4", "-m", "10", *options, f"https://localhost:{gateway.port}/"]
    output, seconds = run_child(argv)
    assert f"{REQUESTS} done" in output, output
    return REQUESTS, seconds


def nested_paths(gateway: Gateway) -> tuple[int, float]:
    """The first request adds the path to the HPACK table. The others refer to this entry."""
    host, length = b"\x82\x87\x01\x09localhost", len(NESTED_PATH) - 127
    size = bytes([0x7F, length % 128 | 0x80, length // 128])
    heads = [host + b"\x44" + size + NESTED_PATH.encode()] + [host + b"\xbe"] * 99
    frames = [attack.frame(attack.HEADERS, 5, 2 * at + 1, block) for at, block in enumerate(heads)]
    flood = attack.PREFACE + attack.frame(attack.SETTINGS, 0, 0) + b"".join(frames)
    connections, seconds = send_flood(gateway, flood)
    return connections * len(heads), seconds


def resets(gateway: Gateway) -> tuple[int, float]:
    flood = attack.PREFACE + attack.frame(attack.SETTINGS, 0, 0) + b"".join(map(attack.reset, range(150)))
    return send_flood(gateway, flood)


def send_flood(gateway: Gateway, flood: bytes) -> tuple[int, float]:
    """Sends the bytes on 100 connections and reads each until no response arrives for 0.2 seconds.

    Returns the number of connections and the CPU time of this process in seconds.
    """
    tls, before, count = attack.tls_context("h2"), time.process_time(), 100
    for _ in range(count):
        plain = socket.create_connection(("127.0.0.1", gateway.port))
        with tls.wrap_socket(plain, server_hostname=HOST) as stream, contextlib.suppress(OSError):
            stream.settimeout(0.2)
            stream.sendall(flood)
            while stream.recv(65536):
                pass
    return count, time.process_time() - before


def logins(gateway: Gateway) -> tuple[int, float]:
    """Each attempt uses another name and another network, so no rate limit applies."""
    before, count = time.process_time(), 30
    for number in range(count):
        form = {"username": f"user{number}", "password": "guess"}
        plain = socket.create_connection(("127.0.0.1", gateway.port), 5, (f"127.{number + 1}.0.1", 0))
        with attack.tls_context().wrap_socket(plain, server_hostname=HOST) as stream:
            log_in(stream, gateway.port, form)
    return count, time.process_time() - before


def log_in(stream: ssl.SSLSocket, port: int, form: dict[str, str]) -> None:
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
