// What an app sees behind node's own server.
import http from "node:http";

const server = http.createServer((request, response) => {
  console.log(request.url);
  let length = 0;
  request.on("data", (piece) => (length += piece.length));
  request.on("end", () => {
    const fields = [];
    for (let at = 0; at < request.rawHeaders.length; at += 2) {
      fields.push(`${request.rawHeaders[at]}: ${request.rawHeaders[at + 1]}`);
    }
    const text = [
      "app=node",
      `path=${request.url.split("?")[0]}`,
      `host=${request.headers.host ?? ""}`,
      `user=${request.headers["x-forwarded-user"] ?? ""}`,
      `body=${length}`,
      `fields=${fields.join("|")}`,
    ].join("\n");
    response.end(Buffer.from(text, "latin1"));
  });
});
server.listen(Number(process.argv[2]), "127.0.0.1");
