"""What an app sees behind gunicorn: names folded as WSGI folds them."""

import sys


def see(environ, start_response):
    body = environ["wsgi.input"].read()
    print(environ["RAW_URI"], file=sys.stderr, flush=True)
    fields = [f"{name}: {value}" for name, value in environ.items() if name.startswith("HTTP_")]
    text = "\n".join(
        [
            "app=gunicorn",
            f"path={environ['PATH_INFO']}",
            f"host={environ.get('HTTP_HOST', '')}",
            f"user={environ.get('HTTP_X_FORWARDED_USER', '')}",
            f"body={len(body)}",
            "fields=" + "|".join(fields),
        ]
    )
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [text.encode("latin-1")]
