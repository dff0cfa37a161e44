"""Runs nginx as the app: `/` is short, `/big` has 100 GB, and a POST is read completely.

    upstream.py HOME        prints its port
"""

import os
import pathlib
import socket
import sys

CONFIG = """
worker_processes 1;
worker_rlimit_nofile 20000;
daemon off;
master_process off;
pid nginx.pid;
error_log error.log crit;
events {{ worker_connections 16000; }}
http {{
    access_log off;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi; scgi_temp_path scgi;
    keepalive_requests 1000000000;
    # A client that reads slowly stays connected.
    send_timeout 1h;
    client_body_timeout 1h;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{ if ($request_method = POST) {{ rewrite ^ /read last; }} return 200 "hello"; }}
        # nginx reads the body for this upstream. No server listens there, so the response is a 502.
        location /read {{ proxy_pass http://127.0.0.1:1; }}
        location /big {{ }}
    }}
}}
"""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def main() -> None:
    home = pathlib.Path(sys.argv[1])
    port = free_port()
    (home / "html").mkdir()
    with (home / "html/big").open("wb") as big:
        big.truncate(100_000_000_000)
    (home / "nginx.conf").write_text(CONFIG.format(port=port))
    print(port, flush=True)
    os.execvp("nginx", ["nginx", "-p", str(home), "-c", str(home / "nginx.conf"), "-e", "error.log"])


main()
