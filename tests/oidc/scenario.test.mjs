// Logins and logouts at a certified provider, through the gateway.

import assert from "node:assert/strict";
import { generateKeyPairSync } from "node:crypto";
import { test } from "node:test";

import { Browser, form } from "./browser.mjs";
import { secretFile, start } from "./start.mjs";

const browser = (gateway, name = "alice") => new Browser(gateway.ca, name);

test("a user logs in and the app receives name, groups and address", async (t) => {
  const { gateway } = await start(t);
  const page = await browser(gateway).open(`${gateway.origin}/notes?x=1`);
  assert.equal(page.url, `${gateway.origin}/notes?x=1`);
  assert.equal(page.text, "user=alice groups=staff email=alice@example.com");
});

test("groups of the provider decide about a route", async (t) => {
  const { gateway } = await start(t);
  const bob = browser(gateway, "bob");
  assert.equal((await bob.open(`${gateway.origin}/`)).text.split(" ")[0], "user=bob");
  assert.equal((await bob.open(`${gateway.origin}/staff/`)).status, 403);
});

test("two tabs log in at once", async (t) => {
  const { gateway, provider } = await start(t);
  const alice = browser(gateway);
  const stop = (url) => url.startsWith(`${provider.issuer}/auth`);
  const one = await alice.open(`${gateway.origin}/one`, stop);
  const two = await alice.open(`${gateway.origin}/two`, stop);
  assert.equal((await alice.open(two.url)).url, `${gateway.origin}/two`);
  assert.equal((await alice.open(one.url)).url, `${gateway.origin}/one`);
});

test("pushed requests and a signed client assertion are accepted", async (t) => {
  const pair = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const key = secretFile("key.pem", pair.privateKey.export({ type: "pkcs8", format: "pem" }));
  const jwk = { ...pair.publicKey.export({ format: "jwk" }), kid: "k1", use: "sig", alg: "ES256" };
  const { gateway, provider } = await start(t, {
    auth: `client_auth = "private_key_jwt"\nclient_key_file = "${key}"\nclient_key_id = "k1"`,
    client: {
      client_secret: undefined,
      token_endpoint_auth_method: "private_key_jwt",
      token_endpoint_auth_signing_alg: "ES256",
      jwks: { keys: [jwk] },
      require_pushed_authorization_requests: true,
    },
    more: "pushed_requests = true",
  });
  const alice = browser(gateway);
  const request = await alice.open(`${gateway.origin}/`, (url) => url.startsWith(provider.issuer));
  const names = [...new URL(request.url).searchParams.keys()];
  assert.deepEqual(names, ["client_id", "request_uri"]);
  assert.match((await alice.open(request.url)).text, /^user=alice /);
});

test("claims of UserInfo are added", async (t) => {
  const settings = { conformIdTokenClaims: true };
  const { gateway } = await start(t, { settings, more: "userinfo = true" });
  const page = await browser(gateway).open(`${gateway.origin}/`);
  assert.equal(page.text, "user=alice groups=staff email=alice@example.com");
});

test("a pairwise subject is an account of its own", async (t) => {
  const settings = {
    subjectTypes: ["pairwise"],
    pairwiseIdentifier: async (_, account) => `pairwise-${account}`,
  };
  const client = { subject_type: "pairwise" };
  const { gateway } = await start(t, { client, settings });
  assert.match((await browser(gateway).open(`${gateway.origin}/`)).text, /^user=alice /);
});

test("a provider that is down at the start is used once it responds", async (t) => {
  const { gateway, serve } = await start(t, { later: true });
  const alice = browser(gateway);
  const button = `${gateway.origin}/.doorward/oidc/corp/login`;
  let page = await alice.open(button);
  assert.equal(page.status, 503);
  assert.ok(Number(page.headers["retry-after"]) > 0);
  await gateway.logged("oidc.provider-down");
  serve();
  const deadline = Date.now() + 40_000;
  while (page.status === 503 && Date.now() < deadline) page = await alice.open(button);
  assert.match(page.text, /^user=alice /);
  await gateway.logged("oidc.provider-up");
});

test("a session does not need the provider", async (t) => {
  const { gateway, provider } = await start(t);
  const alice = browser(gateway);
  await alice.open(`${gateway.origin}/`);
  const bob = browser(gateway, "bob");
  const callback = await bob.open(`${gateway.origin}/`, (url) => url.includes("/callback?"));
  provider.stop();
  assert.match((await alice.open(`${gateway.origin}/`)).text, /^user=alice /);
  const down = await bob.open(callback.url);
  assert.equal(down.status, 503);
  assert.ok(Number(down.headers["retry-after"]) > 0);
});

test("a route that needs a fresh login causes one", async (t) => {
  const { gateway, provider } = await start(t);
  const alice = browser(gateway);
  await alice.open(`${gateway.origin}/`);
  await new Promise((resolve) => setTimeout(resolve, 2_100));
  const request = await alice.open(`${gateway.origin}/fresh/`, (url) => url.startsWith(provider.issuer));
  assert.equal(new URL(request.url).searchParams.get("max_age"), "1");
  assert.match((await alice.open(request.url)).text, /^user=alice /);
});

test("a logout ends the session at the gateway and the provider", async (t) => {
  const { gateway, provider } = await start(t);
  const alice = browser(gateway);
  await alice.open(`${gateway.origin}/`);
  const url = `${gateway.origin}/.doorward/logout`;
  const page = await alice.open(url);
  const confirm = form(page.text);
  const done = await alice.send(url, { method: "POST", fields: confirm.fields, from: url });
  const target = /https?:[^"\s<>;]*\/session\/end[^"\s<>]*/.exec(done.text + (done.headers.location ?? ""))?.[0];
  assert.ok(target, done.text);
  const end = await alice.send(target.replaceAll("&amp;", "&").replaceAll("&#38;", "&"));
  assert.equal(end.status, 200, end.text);
  const confirmation = form(end.text);
  const back = await alice.open(
    (await alice.send(confirmation.action, { method: "POST", fields: { ...confirmation.fields, logout: "yes" } })).headers.location,
    (next) => next.startsWith(gateway.origin),
  );
  assert.ok(back.url.startsWith(url), back.url);
  const again = await alice.open(`${gateway.origin}/`, (next) => next.startsWith(`${provider.issuer}/interaction`));
  assert.ok(again.url.includes("/interaction/"), "the provider requests the name again");
});

test("a back-channel logout ends the session", async (t) => {
  const { gateway, provider, deliveries } = await start(t);
  const alice = browser(gateway);
  await alice.open(`${gateway.origin}/`);
  // The logout begins at the provider, not at the gateway.
  const end = await alice.send(`${provider.issuer}/session/end`);
  const confirmation = form(end.text);
  await alice.send(confirmation.action, { method: "POST", fields: { ...confirmation.fields, logout: "yes" } });
  assert.deepEqual(deliveries, [200]);
  const count = gateway.received.length;
  const after = await alice.open(`${gateway.origin}/`);
  assert.match(after.text, /You are logged out/);
  assert.equal(gateway.received.length, count, "the app received nothing");
});

test("a user without permission receives a page that explains it", async (t) => {
  const { gateway } = await start(t, { more: "[login.oidc.corp.allow]\ngroups = [\"staff\"]" });
  const page = await browser(gateway, "bob").open(`${gateway.origin}/`);
  assert.equal(page.status, 403);
  assert.match(page.text, /not admitted/);
  await gateway.logged("no allow rule admits");
});
