"""Responds with the request that gunicorn parsed. Header names become WSGI variables."""

import sys


def app(environ, start_response):
    body = environ["wsgi.input"].read()
    print(environ["RAW_URI"], file=sys.stderr, flush=True)
    headers = [f"{name}: {value}" for name, value in environ.items() if name.startswith("HTTP_")]
    text = "\n".join(
        [
            "app=gunicorn",
            f"path={environ['PATH_INFO']}",
            f"host={environ.get('HTTP_HOST', '')}",
            f"user={environ.get('HTTP_X_FORWARDED_USER', '')}",
            f"body={len(body)}",
            "headers=" + "|".join(headers),
        ]
    )
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [text.encode("latin-1")]
