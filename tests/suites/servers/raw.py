"""A minimal HTTP/1.1 server. It prints each target and responds with the request that it received."""

import socket
import socketserver
import sys


class Connection(socketserver.StreamRequestHandler):
    def handle(self):
        while request := self.rfile.readline(65536):
            lines = []
            while (line := self.rfile.readline(65536)).strip():
                lines.append(line.decode("latin-1").rstrip("\r\n"))
            headers = [tuple(part.strip() for part in line.split(":", 1)) for line in lines]
            values = {name.lower(): value for name, value in headers}
            body = self.body(values)
            target = request.decode("latin-1").split(" ")[1]
            print(target, flush=True)
            text = "\n".join(
                [
                    "app=raw",
                    f"path={target.split('?')[0]}",
                    f"host={values.get('host', '')}",
                    f"user={values.get('x-forwarded-user', '')}",
                    f"body={len(body)}",
                    "headers=" + "|".join(lines),
                ]
            ).encode("latin-1")
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(text) + text)
            if values.get("connection", "").lower() == "close":
                return

    def body(self, values: dict[str, str]) -> bytes:
        if "transfer-encoding" not in values:
            return self.rfile.read(int(values.get("content-length", "0")))
        out = b""
        while length := int(self.rfile.readline().split(b";")[0], 16):
            out += self.rfile.read(length)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return out


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    address_family = socket.AF_INET


if __name__ == "__main__":
    Server(("127.0.0.1", int(sys.argv[1])), Connection).serve_forever()
