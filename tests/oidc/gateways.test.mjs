// Two gateways on one Redis, with a provider whose refresh tokens work once.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { createConnection } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { setTimeout as pause } from "node:timers/promises";

import { Browser, form } from "./browser.mjs";
import { accounts } from "./provider.mjs";
import { start } from "./start.mjs";

/// The shortest interval that the gateway accepts, and a second.
const RECHECK = 61_000;

test("two gateways rotate one refresh token, and both end the session at a logout", async (t) => {
  const store = await openRedis(t);
  const more = 'scopes = ["profile", "email", "offline_access"]\nrecheck = "1m"';
  // The provider would issue one only after a question for consent.
  const settings = { issueRefreshToken: async () => true };
  const { gateway, second, provider, deliveries } = await start(t, { store, more, settings });
  const alice = new Browser(gateway.ca, "alice");
  const pages = () => {
    const origins = [gateway, second, gateway, second].map(({ origin }) => origin);
    return Promise.all(origins.map((origin) => alice.open(`${origin}/`)));
  };
  await alice.open(`${gateway.origin}/`);
  for (const groups of [["staff", "it"], ["it"]]) {
    accounts.alice.groups = groups;
    await pause(RECHECK);
    for (const page of await pages()) assert.match(page.text, /^user=alice /);
    // The check runs in the background.
    const wanted = `groups=${[...groups].sort().join(",")} `;
    await until(async () => (await pages()).every(({ text }) => text.includes(wanted)), wanted);
  }
  const once = ["authorization_code", "refresh_token", "refresh_token"];
  assert.deepEqual(provider.grants, once, "each refresh token is used once, by one gateway");
  const end = await alice.send(`${provider.issuer}/session/end`);
  const question = form(end.text);
  await alice.send(question.action, { method: "POST", fields: { ...question.fields, logout: "yes" } });
  assert.deepEqual(deliveries, [200]);
  const isOver = async ({ origin }) => /You are logged out/.test((await alice.open(`${origin}/`)).text);
  await until(() => isOver(second), "the end of the session at the other gateway", 1_000);
  assert.ok(await isOver(gateway));
});

async function until(check, what, limit = 10_000) {
  for (const end = Date.now() + limit; Date.now() < end; await pause(20)) {
    if (await check()) return;
  }
  assert.fail(`not within ${limit} ms: ${what}`);
}

/// Starts Redis on a socket file. Returns the URL of the store.
async function openRedis(t) {
  const home = mkdtempSync(path.join(tmpdir(), "doorward-oidc-redis-"));
  const socket = path.join(home, "redis.sock");
  const options = ["--port", "0", "--unixsocket", socket, "--save", "", "--dir", home];
  const child = spawn("redis-server", options, { stdio: "ignore" });
  const ended = new Promise((resolve) => child.once("exit", resolve));
  t.after(async () => {
    child.kill();
    await ended;
    rmSync(home, { recursive: true });
  });
  const opens = () =>
    new Promise((resolve) => {
      const stream = createConnection(socket, () => resolve(stream.destroy() && true));
      stream.on("error", () => resolve(false));
    });
  await until(opens, "Redis");
  return `redis+unix://${socket}?db=0`;
}
