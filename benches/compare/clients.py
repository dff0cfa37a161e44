"""Load generators: logins, wrk, h2load and idle connections."""

import concurrent.futures
import html
import http.client
import os
import re
import socket
import ssl
import subprocess
import sys
import time
import urllib.parse
from pathlib import Path

from servers import PASSWORD, USERS

HERE = Path(__file__).parent
CONNECTIONS = 64
SESSIONS = 1000
# Seconds before the measurement: handshakes, upstream connections, and the first request of each session.
WARM_UP = 1.5


def tls_context():
    """Accepts every certificate, because the servers run on loopback."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


TLS = tls_context()


def log_in_all(port, count=SESSIONS):
    """Logs in `count` times with the form. Returns a `Cookie` header for each session."""
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda number: log_in(port, number), range(count)))


def log_in(port, number):
    # Each login has its own address, because the rate limits of logins apply per address.
    address = f"127.1.{number // 250}.{number % 250 + 1}"
    connection = http.client.HTTPSConnection("localhost", port, context=TLS)
    plain = socket.create_connection(("127.0.0.1", port), 20, (address, 0))
    connection.sock = TLS.wrap_socket(plain, server_hostname="localhost")
    connection.request("GET", "/.doorward/login", headers={"Accept": "text/html"})
    form = connection.getresponse()
    page, nonce = form.read().decode(), form.getheader("Set-Cookie", "").partition(";")[0]
    fields = {"username": f"user{number % USERS}", "password": PASSWORD, "csrf": hidden(page, "csrf")}
    headers = {"Cookie": nonce, "Content-Type": "application/x-www-form-urlencoded"}
    connection.request("POST", "/.doorward/login", urllib.parse.urlencode(fields), headers)
    response = connection.getresponse()
    response.read()
    connection.close()
    cookie = response.getheader("Set-Cookie", "").partition(";")[0]
    if response.status != 303 or not cookie.startswith("__Host-doorward="):
        raise SystemExit(f"the login of {fields['username']} failed with status {response.status}")
    return cookie


def hidden(page, name):
    for tag in re.findall(r"<input[^>]*>", page):
        if re.search(rf"name=[\"']?{name}\b", tag):
            return html.unescape(re.search(r"value=[\"']?([^\"'\s>]*)", tag)[1])
    raise SystemExit(f"the login form has no field {name}")


class Window:
    """Measures CPU time and requests while the load is constant."""

    def __init__(self, server, upstream):
        self.server, self.upstream = server, upstream

    def measure(self, seconds):
        time.sleep(WARM_UP)
        before = self._sample()
        time.sleep(seconds)
        after = self._sample()
        elapsed, cpu, requests = (late - early for early, late in zip(before, after))
        return {"cpu": cpu / requests * 100_000, "rate": requests / elapsed}

    def _sample(self):
        return time.monotonic(), self.server.cpu_seconds(), self._requests()

    def _requests(self):
        """Returns the number of requests that reached the upstream. Others were not proxied."""
        connection = http.client.HTTPConnection("127.0.0.1", self.upstream.port, timeout=10)
        connection.request("GET", "/requests-so-far")
        text = connection.getresponse().read().decode()
        connection.close()
        return int(re.search(r"^ (\d+) (\d+) (\d+)", text, re.MULTILINE)[3])


def http1(server, upstream, cookies, seconds):
    """Runs wrk with a thousand sessions in turn on keep-alive HTTP/1.1 connections."""
    duration = int(seconds + WARM_UP + 2)
    command = ["wrk", "-t2", f"-c{CONNECTIONS}", f"-d{duration}s", "-s", HERE / "cookies.lua",
               f"https://localhost:{server.port}/"]
    environment = {**os.environ, "COOKIES": str(cookies)}
    wrk = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    result = Window(server, upstream).measure(seconds)
    output = wrk.communicate()[0]
    requests, refused, broken, p50, p99 = re.search(r"RESULT (.*)", output)[1].split()
    if int(refused) or int(broken):
        raise SystemExit(f"of {requests} requests {refused} were refused and {broken} failed:\n{output}")
    return {**result, "sent": int(requests), "p50": float(p50), "p99": float(p99)}


def http2(server, upstream, cookies, seconds):
    """Runs h2load with 16 connections and 4 streams each. All requests belong to one session."""
    duration = int(seconds + WARM_UP + 2)
    cookie = Path(cookies).read_text().splitlines()[0]
    command = ["h2load", "-t2", "-c16", "-m4", f"-D{duration}", "-H", f"cookie: {cookie}",
               f"https://localhost:{server.port}/"]
    h2load = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    result = Window(server, upstream).measure(seconds)
    output = h2load.communicate()[0]
    codes = re.search(r"status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", output)
    if "protocol: h2" not in output or any(int(code) for code in codes.groups()[1:]):
        raise SystemExit(f"h2load received unexpected responses:\n{output}")
    return {**result, "sent": int(codes[1])}


def idle_kib(server, cookies, count):
    """Returns the resident memory in KiB per connection that is idle after one request."""
    before = server.resident_kib()
    halves = [count // 2, count - count // 2]
    clients = [
        subprocess.Popen(
            [sys.executable, HERE / "clients.py", str(server.port), str(half), str(cookies)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for half in halves
    ]
    for client in clients:
        if client.stdout.readline() != "open\n":
            raise SystemExit("the idle connections could not be opened")
    time.sleep(5)
    after = server.resident_kib()
    for client in clients:
        client.communicate("close\n")
    return (after - before) / count


def stay_idle(port, count, cookies):
    """Runs as a child process of `idle_kib`. Opens connections, sends a request on each, and waits."""
    head = f"GET / HTTP/1.1\r\nHost: localhost:{port}\r\nCookie: {cookies[0]}\r\n\r\n".encode()
    connections = []
    for _ in range(count):
        plain = socket.create_connection(("127.0.0.1", port), 20)
        secured = TLS.wrap_socket(plain, server_hostname="localhost")
        secured.sendall(head)
        response = secured.recv(4096)
        while len(response) < 1024:
            response += secured.recv(4096)
        if not response.startswith(b"HTTP/1.1 200"):
            raise SystemExit(response.decode(errors="replace"))
        connections.append(secured)
    print("open", flush=True)
    sys.stdin.readline()
    # Verifies that the measured connections are still open and idle.
    connections[0].setblocking(False)
    try:
        connections[0].recv(1)
        raise SystemExit("the server closed idle connections while they were measured")
    except (ssl.SSLWantReadError, BlockingIOError):
        pass


if __name__ == "__main__":
    stay_idle(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]).read_text().splitlines())
