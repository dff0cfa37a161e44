// Runs a certified OpenID Connect provider on a loopback port.

import { createServer } from "node:http";
import { createRequire } from "node:module";
import { generateKeyPairSync } from "node:crypto";
import path from "node:path";

const installed = createRequire(path.join(process.env.NPM_PACKAGES, "/"));
const { Provider } = installed("oidc-provider");

export const CLIENT_ID = "doorward";
export const CLIENT_SECRET = "a secret for the tests: 100% & more";

export const accounts = {
  alice: { email: "alice@example.com", email_verified: true, name: "Alice", groups: ["staff"] },
  bob: { email: "bob@example.com", email_verified: true, name: "Bob", groups: ["guests"] },
};

// The provider warns about its in-memory store and its login pages, which suit a test.
console.warn = () => {};
console.info = () => {};

const unavailable = (_, response) => response.writeHead(503).end();

/// Opens the port. Requests wait until `serve` is called with the settings of the client.
export async function openProvider() {
  const waiting = [];
  let handle = (...exchange) => waiting.push(exchange);
  const server = createServer((request, response) => handle(request, response));
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const issuer = `http://localhost:${server.address().port}`;
  // Types of the grants that were redeemed, and the errors of the others.
  const grants = [];
  return {
    issuer,
    grants,
    serve(client, settings, fetch) {
      const provider = new Provider(issuer, configuration(client, settings, fetch));
      provider.on("grant.success", (ctx) => grants.push(ctx.oidc.params.grant_type));
      provider.on("grant.error", (_, error) => grants.push(error.message));
      handle = provider.callback();
      for (const exchange of waiting.splice(0)) handle(...exchange);
    },
    /// Responds with 503 from now on.
    stop() {
      handle = unavailable;
    },
    close() {
      server.closeAllConnections();
      server.close();
    },
  };
}

function configuration(client, settings, fetch) {
  return {
    clients: [
      {
        client_id: CLIENT_ID,
        client_secret: CLIENT_SECRET,
        grant_types: ["authorization_code", "refresh_token"],
        backchannel_logout_session_required: true,
        ...client,
      },
    ],
    jwks: { keys: signingKeys() },
    cookies: { keys: ["a key for the cookies of the tests"] },
    scopes: ["openid", "offline_access", "profile", "email"],
    claims: {
      profile: ["name", "preferred_username", "groups"],
      email: ["email", "email_verified"],
    },
    // ID tokens hold the claims of the scopes, as those of most providers do.
    conformIdTokenClaims: false,
    acrValues: ["gold"],
    features: {
      devInteractions: { enabled: true },
      backchannelLogout: { enabled: true },
      pushedAuthorizationRequests: { enabled: true, requirePushedAuthorizationRequests: false },
      rpInitiatedLogout: { enabled: true },
    },
    findAccount: (_, id) => ({
      accountId: id,
      claims: () => ({ sub: id, preferred_username: id, ...accounts[id] }),
    }),
    loadExistingGrant: grantAll,
    issueRefreshToken: async (_, client, code) =>
      client.grantTypeAllowed("refresh_token") && code.scopes.has("offline_access"),
    rotateRefreshToken: true,
    fetch,
    ...settings,
  };
}

/// Grants every scope, so users enter their name only and give no consent.
async function grantAll(ctx) {
  const grant = new ctx.oidc.provider.Grant({
    clientId: ctx.oidc.client.clientId,
    accountId: ctx.oidc.session.accountId,
  });
  grant.addOIDCScope("openid offline_access profile email");
  await grant.save();
  return grant;
}

function signingKeys() {
  const rsa = generateKeyPairSync("rsa", { modulusLength: 2048 });
  const key = rsa.privateKey.export({ format: "jwk" });
  return [{ ...key, kid: "rsa-1", use: "sig", alg: "RS256" }];
}
