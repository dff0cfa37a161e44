"""The app of the compatibility tests, for gunicorn and wsgiref."""

import hashlib
import json
import os
import sys
import wsgiref.simple_server
from urllib.parse import parse_qsl


def app(environ, start_response):
    query = dict(parse_qsl(environ.get("QUERY_STRING", "")))
    number = int(query.get("n", "0"))
    match environ["PATH_INFO"]:
        case "/echo":
            return _respond(start_response, json.dumps(_received(environ)).encode())
        case "/cookies":
            cookies = [("Set-Cookie", f"c{index}=v") for index in range(number)]
            return _respond(start_response, b"ok", headers=cookies)
        case "/bytes":
            return _respond(start_response, b"x" * number)
        case "/stream":
            start_response("200 OK", [("Content-Type", "text/plain")])
            return (b"x" * 1000 for _ in range(number))
        case "/redirect":
            target = f"http://127.0.0.1:{os.environ['PORT']}/echo?redirected=1"
            return _respond(start_response, b"", "302 Found", [("Location", target)])
        case "/status":
            return _respond(start_response, b"" if number == 204 else b"text", f"{number} Status")
    return _respond(start_response, b"unknown", "404 Not Found")


def _received(environ):
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    headers = {
        name[5:].replace("_", "-").lower(): value
        for name, value in environ.items()
        if name.startswith("HTTP_")
    }
    return {
        "method": environ["REQUEST_METHOD"],
        "query": environ.get("QUERY_STRING", ""),
        "headers": headers,
        "length": len(body),
        "hash": hashlib.sha256(body).hexdigest(),
    }


def _respond(start_response, body, status="200 OK", headers=()):
    lengths = [] if status.startswith("204") else [("Content-Length", str(len(body)))]
    start_response(status, [("Content-Type", "text/plain"), *lengths, *headers])
    return [body]


if __name__ == "__main__":
    wsgiref.simple_server.make_server("127.0.0.1", int(sys.argv[1]), app).serve_forever()
