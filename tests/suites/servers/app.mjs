// Responds with the request that the HTTP server of Node.js parsed.
import http from "node:http";

const server = http.createServer((request, response) => {
  console.log(request.url);
  let length = 0;
  request.on("data", (chunk) => (length += chunk.length));
  request.on("end", () => {
    const headers = [];
    for (let at = 0; at < request.rawHeaders.length; at += 2) {
      headers.push(`${request.rawHeaders[at]}: ${request.rawHeaders[at + 1]}`);
    }
    const text = [
      "app=node",
      `path=${request.url.split("?")[0]}`,
      `host=${request.headers.host ?? ""}`,
      `user=${request.headers["x-forwarded-user"] ?? ""}`,
      `body=${length}`,
      `headers=${headers.join("|")}`,
    ].join("\n");
    response.end(Buffer.from(text, "latin1"));
  });
});
server.listen(Number(process.argv[2]), "127.0.0.1");
