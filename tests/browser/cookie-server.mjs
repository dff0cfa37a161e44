// An HTTPS server that sets one cookie on its page and another in a WebSocket handshake. It shows whether the browser
// stores the second cookie, without the gateway.

import { createHash } from "node:crypto";
import { createServer } from "node:https";

const HANDSHAKE_SALT = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"; // RFC 6455, section 1.3
const ATTRIBUTES = "Path=/; Secure; HttpOnly; SameSite=Lax";

export async function cookieServer({ certificate, key }) {
  let lastCookie = "";
  const server = createServer({ cert: certificate, key }, (request, response) => {
    lastCookie = request.headers.cookie ?? lastCookie;
    const fresh = request.headers.cookie ? {} : { "Set-Cookie": cookie("from-the-page") };
    response.writeHead(200, { "Content-Type": "text/html", ...fresh });
    response.end("<!doctype html><title>cookies</title>");
  });
  const upgraded = new Set();
  server.on("upgrade", (request, socket) => {
    upgraded.add(socket);
    socket.on("error", () => socket.destroy());
    socket.write(handshake(request));
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    url: `https://printer.localhost:${server.address().port}/`,
    lastCookie: () => lastCookie,
    end: () => end(server, upgraded),
  };
}

function handshake(request) {
  const accept = createHash("sha1")
    .update(request.headers["sec-websocket-key"] + HANDSHAKE_SALT)
    .digest("base64");
  return [
    "HTTP/1.1 101 Switching Protocols",
    "Upgrade: websocket",
    "Connection: Upgrade",
    `Sec-WebSocket-Accept: ${accept}`,
    `Set-Cookie: ${cookie("from-the-handshake")}`,
    "\r\n",
  ].join("\r\n");
}

const cookie = (value) => `__Host-doorward=${value}; ${ATTRIBUTES}`;

// `close` waits for upgraded sockets, which `closeAllConnections` does not close.
function end(server, upgraded) {
  for (const socket of upgraded) socket.destroy();
  server.closeAllConnections();
  return new Promise((resolve) => server.close(resolve));
}
