// A browser without scripts: cookies, redirects and forms.

import http from "node:http";
import https from "node:https";

/// Sends one request to a loopback port. The certificate must be signed by `ca`.
export function send(url, { method = "GET", headers = {}, body = "", ca } = {}) {
  const target = new URL(url);
  const secure = target.protocol === "https:";
  const options = {
    host: "127.0.0.1",
    port: target.port,
    path: target.pathname + target.search,
    method,
    headers: { host: target.host, "content-length": Buffer.byteLength(body), ...headers },
    agent: false,
    ...(secure && { ca, servername: target.hostname }),
  };
  return new Promise((resolve, reject) => {
    const request = (secure ? https : http).request(options, (response) => {
      const chunks = [];
      response.on("data", (chunk) => chunks.push(chunk));
      response.on("end", () => {
        const text = Buffer.concat(chunks).toString();
        resolve({ status: response.statusCode, headers: response.headers, text, url });
      });
      response.on("error", reject);
    });
    request.on("error", reject);
    request.end(body);
  });
}

/// A browser whose user logs in at the provider under `name`.
export class Browser {
  constructor(ca, name) {
    this.ca = ca;
    this.name = name;
    // Cookies by host and name. Ports share cookies, as in browsers.
    this.jar = new Map();
  }

  /// Sends a request, without following its redirect.
  async send(url, { method = "GET", fields, from } = {}) {
    const target = new URL(url);
    const site = from === undefined ? "none" : new URL(from).origin === target.origin ? "same-origin" : "cross-site";
    const headers = {
      accept: "text/html",
      "sec-fetch-mode": "navigate",
      "sec-fetch-dest": "document",
      "sec-fetch-site": site,
      cookie: this.cookies(target.hostname),
    };
    let body = "";
    if (fields) {
      body = new URLSearchParams(fields).toString();
      headers["content-type"] = "application/x-www-form-urlencoded";
      headers.origin = target.origin;
    }
    const response = await send(url, { method, headers, body, ca: this.ca });
    for (const line of response.headers["set-cookie"] ?? []) this.keep(target.hostname, line);
    return response;
  }

  /// Opens a page. Follows redirects and submits the login form of the provider. Stops before the first URL for
  /// which `until` returns true.
  async open(url, until = () => false) {
    let [next, options] = [url, {}];
    for (let steps = 0; steps < 30; steps += 1) {
      if (until(next)) return { status: 0, url: next, headers: {}, text: "" };
      const response = await this.send(next, options);
      const location = response.headers.location;
      if (response.status >= 300 && response.status < 400 && location) {
        [next, options] = [new URL(location, next).href, { from: next }];
        continue;
      }
      const form = loginForm(response.text);
      if (!form) return response;
      options = { method: "POST", fields: { ...form.fields, login: this.name, password: "any" }, from: next };
      next = new URL(form.action, next).href;
    }
    throw new Error(`too many redirects, the last one to ${next}`);
  }

  cookies(host) {
    const own = [...this.jar].filter(([key]) => key.startsWith(`${host} `));
    return own.map(([key, value]) => `${key.slice(host.length + 1)}=${value}`).join("; ");
  }

  keep(host, line) {
    const [pair, ...attributes] = line.split("; ");
    const at = pair.indexOf("=");
    const key = `${host} ${pair.slice(0, at)}`;
    const ends = attributes.some((it) => /^max-age=0$/i.test(it) || /^expires=thu, 01 jan 1970/i.test(it));
    if (ends) this.jar.delete(key);
    else this.jar.set(key, pair.slice(at + 1));
  }
}

/// Returns action and hidden fields of the provider's login form.
function loginForm(html) {
  if (!/name="login"/.test(html)) return undefined;
  return form(html);
}

/// Returns action and hidden fields of the first form.
export function form(html) {
  const action = /<form[^>]*action="([^"]*)"/.exec(html)?.[1];
  if (action === undefined) return undefined;
  const fields = {};
  for (const [tag] of html.matchAll(/<input[^>]*>/g)) {
    const name = /name="([^"]*)"/.exec(tag)?.[1];
    if (name && /type="hidden"/.test(tag)) fields[name] = /value="([^"]*)"/.exec(tag)?.[1] ?? "";
  }
  return { action: action.replaceAll("&amp;", "&"), fields };
}
