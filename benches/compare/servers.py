"""Runs the servers of a comparison: the upstream, nginx as a TLS proxy, and doorward gateways."""

import os
import socket
import subprocess
import time
from pathlib import Path

HERE = Path(__file__).parent
PASSWORD = "benchmark password"
# argon2id hash of PASSWORD with minimum cost. Logins are not measured, and a thousand of them with the default cost
# take a minute per gateway.
CHEAP_HASH = "$argon2id$v=19$m=8,t=1,p=1$HRIQO6sZXnNJZ+pJjIgs3A$rK8GrwNPrzDEeQDaj2a3xssXFsDf9d1wjxmmDXufIu8"
USERS = 100

NGINX_MAIN = """
worker_processes auto;
worker_rlimit_nofile 20000;
daemon off;
pid {name}.pid;
error_log {name}.error.log warn;
events {{ worker_connections 16000; }}
http {{
    access_log off;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi; scgi_temp_path scgi;
    keepalive_requests 1000000000;
    keepalive_timeout 300s;
    {http}
}}
"""

NGINX_UPSTREAM = """
    server {{
        listen 127.0.0.1:{port} reuseport;
        location / {{ default_type text/plain; return 200 "{body}"; }}
        location = /requests-so-far {{ stub_status; }}
    }}
"""

NGINX_PROXY = """
    upstream app {{ server 127.0.0.1:{upstream}; keepalive 64; keepalive_requests 1000000000; }}
    ssl_certificate cert.pem;
    ssl_certificate_key key.pem;
    ssl_protocols TLSv1.3;
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_set_header Host $http_host;
    proxy_set_header X-Forwarded-For $remote_addr;
    proxy_set_header X-Forwarded-Proto https;
    server {{ listen 127.0.0.1:{quiet} ssl http2 reuseport; location / {{ proxy_pass http://app; }} }}
    server {{
        listen 127.0.0.1:{logging} ssl http2 reuseport;
        access_log nginx.access.log combined;
        location / {{ proxy_pass http://app; }}
    }}
"""

# Defaults except for rotation. Load generators do not store new cookies, so their sessions would be refused after ten
# minutes.
DOORWARD = """
[server]
https = ["127.0.0.1:{port}"]

# The load comes from one address and opens many connections.
[limits]
idle_timeout = "5m"
connection_rate = 1000000
connections_per_network = 10000

[admin]
listen = ""
socket = "{home}/admin.sock"

[keys]
file = "{home}/keys.toml"

[[tls.certificate]]
cert = "{shared}/cert.pem"
key = "{shared}/key.pem"

[store]
url = "embedded:{home}/state"

[session]
rotate_after = "6h"

[login.password]
users = "{shared}/users.toml"

[log]
format = "json"
requests = {log}

[[route]]
host = "localhost"
path = "/"
upstream = "http://127.0.0.1:{upstream}"
access = "session"
"""


class Server:
    """One server process: port, access log and resource use."""

    def __init__(self, process, port, log):
        self.process, self.port, self.log = process, port, log

    def _processes(self):
        """Returns the process and its children, because nginx serves requests in child processes."""
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [pid, *map(int, children)]

    def cpu_seconds(self):
        ticks = 0
        for pid in self._processes():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])  # utime, stime
        return ticks / os.sysconf("SC_CLK_TCK")

    def resident_kib(self):
        pages = 0
        for pid in self._processes():
            pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") // 1024


class Servers:
    """All servers of one run. The caller removes their directory."""

    def __init__(self, directory):
        self.directory = Path(directory)
        self._certificate()
        self._users()
        self.upstream = self._nginx("upstream", NGINX_UPSTREAM, [free_port()], body="x" * 1024)

    def nginx(self):
        """Runs nginx as a TLS proxy without authentication. Returns it without and with an access log."""
        ports = [free_port(), free_port()]
        quiet = self._nginx("nginx", NGINX_PROXY, ports, upstream=self.upstream.port)
        return quiet, Server(quiet.process, ports[1], self.directory / "nginx.access.log")

    def doorward(self, binary, name, log):
        home = self.directory / name
        home.mkdir()
        port = free_port()
        config = DOORWARD.format(
            port=port, home=home, shared=self.directory, upstream=self.upstream.port, log=str(log).lower()
        )
        (home / "doorward.toml").write_text(config)
        command = [binary, "run", "--config", home / "doorward.toml"]
        with (home / "log").open("ab") as output:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        self._wait(process, port, home / "log")
        return Server(process, port, home / "log")

    def _nginx(self, name, template, ports, **values):
        values.update(port=ports[0], quiet=ports[0], logging=ports[-1])
        http = template.format(**values)
        (self.directory / f"{name}.conf").write_text(NGINX_MAIN.format(name=name, http=http))
        command = ["nginx", "-p", self.directory, "-c", f"{name}.conf", "-e", f"{name}.error.log"]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        self._wait(process, ports[0], self.directory / f"{name}.error.log")
        return Server(process, ports[0], None)

    def _wait(self, process, port, log):
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(0.05)
        raise SystemExit(f"{process.args[0]} did not start:\n{log.read_text()[-2000:]}")

    def _certificate(self):
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
             "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
             "-addext", "basicConstraints=CA:FALSE",
             "-keyout", self.directory / "key.pem", "-out", self.directory / "cert.pem"],
            check=True, capture_output=True,
        )
        (self.directory / "key.pem").chmod(0o600)

    def _users(self):
        users = [
            f'[[user]]\nname = "user{number}"\npassword = "{CHEAP_HASH}"\n'
            f'groups = ["staff"]\nemail = "user{number}@example.com"\n'
            for number in range(USERS)
        ]
        path = self.directory / "users.toml"
        path.write_text("\n".join(users))
        path.chmod(0o600)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
