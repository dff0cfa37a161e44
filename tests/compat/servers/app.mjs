// The app of the compatibility tests, for node.

import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";

const port = Number(process.argv[2]);

createServer((request, response) => {
    const url = new URL(request.url, "http://app");
    const number = Number(url.searchParams.get("n") ?? 0);
    const hash = createHash("sha256");
    let length = 0;
    request.on("data", (data) => {
        hash.update(data);
        length += data.length;
    });
    request.on("end", () => {
        const routes = {
            "/echo": () =>
                response.end(
                    JSON.stringify({
                        method: request.method,
                        query: url.search.slice(1),
                        headers: request.headers,
                        length,
                        hash: hash.digest("hex"),
                    }),
                ),
            "/page": () => {
                response.setHeader("Content-Type", "text/html");
                response.end(readFileSync(new URL("page.html", import.meta.url)));
            },
            "/cookies": () => {
                response.setHeader("Set-Cookie", Array.from({ length: number }, (_, index) => `c${index}=v`));
                response.end("ok");
            },
            "/bytes": () => {
                response.setHeader("Content-Length", number);
                response.end("x".repeat(number));
            },
            "/stream": () => {
                for (let index = 0; index < number; index += 1) response.write("x".repeat(1000));
                response.end();
            },
            "/redirect": () => {
                response.writeHead(302, { Location: `http://127.0.0.1:${port}/echo?redirected=1` });
                response.end();
            },
            "/status": () => {
                response.writeHead(number);
                response.end(number === 204 ? "" : "text");
            },
        };
        (routes[url.pathname] ?? (() => response.writeHead(404).end("unknown")))();
    });
}).listen(port, "127.0.0.1");
