// Starts a provider and one or two gateways for one scenario.

import { mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";

import { send } from "./browser.mjs";
import { startGateway } from "./gateway.mjs";
import { CLIENT_ID, CLIENT_SECRET, openProvider } from "./provider.mjs";

const secrets = mkdtempSync(path.join(tmpdir(), "doorward-oidc-secret-"));

export function secretFile(name, text) {
  const file = path.join(secrets, name);
  writeFileSync(file, text, { mode: 0o600 });
  return file;
}

/// Starts provider and gateway. `more` are further lines of `[login.oidc.corp]`. With `store`, two gateways share
/// this store.
export async function start(t, { client = {}, settings = {}, auth, more = "", later = false, store } = {}) {
  const provider = await openProvider();
  t.after(() => provider.close());
  if (later) provider.stop();
  const credentials = auth ?? `client_secret_file = "${secretFile("secret", CLIENT_SECRET)}"`;
  const login = `
[login.oidc.corp]
issuer = "${provider.issuer}"
client_id = "${CLIENT_ID}"
${credentials}
${more}
`;
  const gateway = await startGateway(login, { store });
  t.after(() => gateway.close());
  const second = store && (await startGateway(login, { store, beside: gateway }));
  if (second) t.after(() => second.close());
  const origins = [gateway, second].filter(Boolean).map(({ origin }) => origin);
  const urls = {
    redirect_uris: origins.map((origin) => `${origin}/.doorward/oidc/corp/callback`),
    post_logout_redirect_uris: origins.map((origin) => `${origin}/.doorward/logout`),
    backchannel_logout_uri: `${gateway.origin}/.doorward/oidc/corp/backchannel-logout`,
  };
  // The provider trusts the certificate of the gateway.
  const deliveries = [];
  const fetch = async (url, options) => {
    const body = String(options.body ?? "");
    const headers = Object.fromEntries(new Headers(options.headers));
    const response = await send(url, { method: options.method, headers, body, ca: gateway.ca });
    deliveries.push(response.status);
    return new Response(response.text || null, { status: response.status });
  };
  const serve = () => provider.serve({ ...urls, ...client }, settings, fetch);
  if (!later) serve();
  return { provider, gateway, second, serve, deliveries };
}
