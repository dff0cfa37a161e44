// Runs the gateway with one app. Its files are created with the commands of an operator.

import { execFileSync, spawn } from "node:child_process";
import { createServer } from "node:http";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { tmpdir } from "node:os";
import path from "node:path";

const PROGRAM = process.env.DOORWARD_BIN;
export const HOST = "app.localhost";

/// Starts the gateway. `login` is the text of `[login.oidc.corp]`, `store` the URL of a store that gateways share.
/// A gateway `beside` another one has its keys and certificates.
export async function startGateway(login, { store, beside } = {}) {
  const home = beside?.home ?? mkdtempSync(path.join(tmpdir(), "doorward-oidc-"));
  const app = await startApp();
  if (!beside) execFileSync(PROGRAM, ["certs", "dev", "--dir", path.join(home, "certs"), "--host", HOST]);
  const config = path.join(home, `doorward-${app.port}.toml`);
  writeFileSync(config, configuration(home, login, app.port, store));
  const child = spawn(PROGRAM, ["run", "--config", config], { stdio: ["ignore", "pipe", "pipe"] });
  const log = [];
  const ended = new Promise((resolve) => child.once("exit", resolve));
  const port = await Promise.race([httpsPort(child, log), ended.then(() => 0)]);
  if (port === 0) throw new Error(`the gateway did not start:\n${log.join("\n")}`);
  return {
    home,
    port,
    origin: `https://${HOST}:${port}`,
    ca: readFileSync(path.join(home, "certs/ca.pem")),
    logged: (text) => logged(child, log, text),
    received: app.received,
    async close() {
      child.kill("SIGKILL");
      await ended;
      app.close();
      rmSync(home, { recursive: true, force: true });
    },
  };
}

function configuration(home, login, app, store = `embedded:${home}/state`) {
  return `
[server]
https = ["127.0.0.1:0"]

[admin]
listen = "127.0.0.1:0"
socket = "${home}/admin-${app}.sock"

[keys]
file = "${home}/keys.toml"

[[tls.certificate]]
cert = "${home}/certs/doorward.pem"
key = "${home}/certs/doorward.key"

[store]
url = "${store}"

[log]
format = "json"

${login}

[[route]]
host = "${HOST}"
upstream = "http://127.0.0.1:${app}"
access = "session"

[[route]]
host = "${HOST}"
path = "/staff"
upstream = "http://127.0.0.1:${app}"
access = { groups = ["staff"] }

[[route]]
host = "${HOST}"
path = "/fresh"
upstream = "http://127.0.0.1:${app}"
access = { groups = ["staff"], max_auth_age = "1s" }
`;
}

/// Resolves to the port of the first HTTPS listener. Collects all lines in `log`.
function httpsPort(child, log) {
  return new Promise((resolve) => {
    for (const stream of [child.stdout, child.stderr]) {
      createInterface(stream).on("line", (line) => {
        log.push(line);
        const fields = parsed(line);
        if (fields.event === "gateway.listening" && fields.scheme === "https") {
          resolve(Number(fields.address.split(":").at(-1)));
        }
      });
    }
  });
}

/// Waits for a log line that contains the text.
function logged(child, log, text) {
  return new Promise((resolve, reject) => {
    const missing = () => reject(new Error(`not logged: ${text}\n${log.join("\n")}`));
    const timer = setTimeout(missing, 10_000);
    const check = () => {
      if (!log.some((line) => line.includes(text))) return;
      clearTimeout(timer);
      resolve();
    };
    child.stdout.on("data", () => setImmediate(check));
    child.stderr.on("data", () => setImmediate(check));
    check();
  });
}

function parsed(line) {
  try {
    const value = JSON.parse(line);
    return { ...value, ...value.fields };
  } catch {
    return {};
  }
}

/// An app that responds with the identity headers it received.
async function startApp() {
  const received = [];
  const server = createServer((request, response) => {
    received.push(request.url);
    const get = (name) => request.headers[`x-forwarded-${name}`] ?? "";
    response.setHeader("content-type", "text/plain");
    response.end(`user=${get("user")} groups=${get("groups")} email=${get("email")}`);
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const close = () => {
    server.closeAllConnections();
    server.close();
  };
  return { port: server.address().port, received, close };
}
