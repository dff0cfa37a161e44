"""Sends typical load to an instrumented build of doorward. Usage: train.py BINARY"""

import http.client
import signal
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "compare"))

import clients  # noqa: E402
from servers import Servers  # noqa: E402

SECONDS = 8
LOGINS = 200
UPLOADS = 200
UPLOAD_BYTES = 256 * 1024
REFUSED = 500


def main(binary):
    with tempfile.TemporaryDirectory() as directory:
        servers = Servers(directory)
        for number, log in enumerate((False, True)):
            gateway = servers.doorward(binary, f"gateway{number}", log)
            try:
                train(servers, gateway, Path(directory) / f"cookies{number}")
            finally:
                # The process writes its profile when it exits.
                gateway.process.send_signal(signal.SIGTERM)
                gateway.process.wait(60)
        servers.upstream.process.terminate()
        servers.upstream.process.wait(10)


def train(servers, gateway, cookies):
    sessions = clients.log_in_all(gateway.port, LOGINS)
    cookies.write_text("\n".join(sessions) + "\n")
    clients.http1(gateway, servers.upstream, cookies, SECONDS)
    clients.http2(gateway, servers.upstream, cookies, SECONDS)
    for number in range(UPLOADS):
        headers = {"Cookie": sessions[number % LOGINS], "Origin": f"https://localhost:{gateway.port}"}
        request(gateway.port, "POST", 200, headers, b"x" * UPLOAD_BYTES)
    for _ in range(REFUSED):
        request(gateway.port, "GET", 401, {})


def request(port, method, status, headers, body=None):
    # One connection per request: nginx responds before it has read an upload, and the gateway closes the connection.
    connection = http.client.HTTPSConnection("localhost", port, context=clients.TLS)
    connection.request(method, "/", body, headers)
    response = connection.getresponse()
    response.read()
    connection.close()
    if response.status != status:
        raise SystemExit(f"{method} returned {response.status} instead of {status}")


main(sys.argv[1])
