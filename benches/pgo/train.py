"""Loads a counting build of doorward as its users do. Usage: train.py BINARY"""

import http.client
import signal
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "compare"))

import clients  # noqa: E402
from stage import Stage  # noqa: E402

SECONDS = 8
LOGINS = 200
UPLOADS = 200
UPLOAD_BYTES = 256 * 1024
REFUSED = 500


def main(binary):
    with tempfile.TemporaryDirectory() as place:
        stage = Stage(place)
        for number, log in enumerate((False, True)):
            gateway = stage.doorward(binary, f"gateway{number}", log)
            try:
                train(stage, gateway, Path(place) / f"cookies{number}")
            finally:
                # The counts are written at the exit.
                gateway.process.send_signal(signal.SIGTERM)
                gateway.process.wait(60)
        stage.upstream.process.terminate()
        stage.upstream.process.wait(10)


def train(stage, gateway, cookies):
    sessions = clients.log_in_all(gateway.port, LOGINS)
    cookies.write_text("\n".join(sessions) + "\n")
    clients.http1(gateway, stage.upstream, cookies, SECONDS)
    clients.http2(gateway, stage.upstream, cookies, SECONDS)
    for number in range(UPLOADS):
        headers = {"Cookie": sessions[number % LOGINS], "Origin": f"https://localhost:{gateway.port}"}
        request(gateway.port, "POST", 200, headers, b"x" * UPLOAD_BYTES)
    for _ in range(REFUSED):
        request(gateway.port, "GET", 401, {})


def request(port, method, status, headers, body=None):
    # nginx responds before it has read an upload, and the gateway then closes the connection.
    connection = http.client.HTTPSConnection("localhost", port, context=clients.TLS)
    connection.request(method, "/", body, headers)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    if answer.status != status:
        raise SystemExit(f"{method} was answered with {answer.status} instead of {status}")


main(sys.argv[1])
