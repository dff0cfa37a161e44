"""HTTP clients with one interface. They store no cookies."""

import dataclasses
import http.client
import pathlib
import subprocess
import tempfile

import httpx
import requests
import requests.adapters
from gateway_process import Gateway

# The standard library, which requests uses, refuses responses of more than 100 headers.
http.client._MAXHEADERS = 1_000

TIMEOUT_SECONDS = 20


@dataclasses.dataclass(frozen=True)
class Response:
    status: int
    # Names in lower case.
    headers: list[tuple[str, str]]
    body: bytes

    def values(self, name: str) -> list[str]:
        return [value for other, value in self.headers if other == name]


class Curl:
    def __init__(self, gateway: Gateway, *options: str):
        self.gateway = gateway
        self.options = options

    def send(self, host: str, method: str, path: str, body: bytes | None = None, chunked: bool = False) -> Response:
        """`chunked` sends the body without its length."""
        with tempfile.TemporaryDirectory() as folder:
            home = pathlib.Path(folder)
            arguments = ["--dump-header", str(home / "head"), "--output", str(home / "body")]
            if method == "HEAD":
                arguments.append("--head")
            else:
                arguments += ["--request", method]
            if body is not None:
                (home / "sent").write_bytes(body)
                # Standard input has no length.
                arguments += ["-T", "-"] if chunked else ["--data-binary", f"@{home}/sent"]
            source = (home / "sent").open("rb") if chunked else subprocess.DEVNULL
            self.run(host, path, *arguments, stdin=source)
            head = (home / "head").read_text().strip().split("\r\n\r\n")[-1].splitlines()
            content = (home / "body").read_bytes() if method != "HEAD" and (home / "body").exists() else b""
            pairs = (line.partition(":") for line in head[1:])
            headers = [(name.lower(), value.strip()) for name, _, value in pairs]
            return Response(int(head[0].split()[1]), headers, content)

    def run(self, host: str, path: str, *arguments: str, stdin=subprocess.DEVNULL) -> str:
        """Runs curl once; `path` may be several URLs with --next between them."""
        port = self.gateway.port
        argv = ["curl", "--silent", "--show-error", "--max-time", str(TIMEOUT_SECONDS), *self.options]
        argv += ["--cacert", str(self.gateway.home / "certs/ca.pem")]
        argv += ["--resolve", f"{host}:{port}:127.0.0.1", *arguments, f"https://{host}:{port}{path}"]
        done = subprocess.run(argv, stdin=stdin, capture_output=True, timeout=TIMEOUT_SECONDS + 5)
        if done.returncode != 0:
            raise AssertionError(f"curl: {done.returncode} {done.stderr.decode()}")
        return done.stdout.decode()


class Requests:
    """python-requests over HTTP/1.1."""

    def __init__(self, gateway: Gateway):
        self.gateway = gateway

    def send(self, host: str, method: str, path: str, body: bytes | None = None, chunked: bool = False) -> Response:
        with requests.Session() as session:
            session.trust_env = False
            session.mount("https://", _NamedAdapter(host))
            # A generator has no length.
            data = (part for part in [body]) if chunked else body
            response = session.request(
                method,
                f"https://127.0.0.1:{self.gateway.port}{path}",
                headers={"Host": f"{host}:{self.gateway.port}"},
                data=data,
                verify=str(self.gateway.home / "certs/ca.pem"),
                timeout=TIMEOUT_SECONDS,
                allow_redirects=False,
            )
            lines = response.raw.headers.iteritems()
            headers = [(name.lower(), value) for name, value in lines]
            return Response(response.status_code, headers, response.content)


class _NamedAdapter(requests.adapters.HTTPAdapter):
    """Sets the server name separately from the address, because not every resolver supports *.localhost."""

    def __init__(self, host: str):
        self.host = host
        super().__init__()

    def init_poolmanager(self, *args, **kwargs):
        names = {"server_hostname": self.host, "assert_hostname": self.host}
        super().init_poolmanager(*args, **names, **kwargs)


class Httpx:
    """httpx over HTTP/2."""

    def __init__(self, gateway: Gateway):
        self.gateway = gateway

    def send(self, host: str, method: str, path: str, body: bytes | None = None, chunked: bool = False) -> Response:
        port = self.gateway.port
        with httpx.Client(
            http2=True, verify=str(self.gateway.home / "certs/ca.pem"), timeout=TIMEOUT_SECONDS, trust_env=False
        ) as client:
            request = client.build_request(
                method,
                f"https://127.0.0.1:{port}{path}",
                headers={"Host": f"{host}:{port}"},
                content=(part for part in [body]) if chunked else body,
                extensions={"sni_hostname": host},
            )
            response = client.send(request)
            assert response.http_version == "HTTP/2"
            return Response(response.status_code, response.headers.multi_items(), response.content)


def all_clients(gateway: Gateway) -> dict[str, Curl | Requests | Httpx]:
    return {
        "curl": Curl(gateway, "--http1.1"),
        "curl, HTTP/2": Curl(gateway, "--http2"),
        "requests": Requests(gateway),
        "httpx": Httpx(gateway),
    }
