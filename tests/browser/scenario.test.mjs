// Users with a real browser, two apps and short session times.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";

import { accessibilityViolations, openBrowser, Profile, screenshot, until } from "./browser.mjs";
import { cookieServer } from "./cookie-server.mjs";
import { openEnvironment } from "./environment.mjs";

const ROTATE_AFTER_SECONDS = 4;
// Connections close within one second of the logout. The rest is for a busy machine.
const CLOSED_WITHIN_SECONDS = 3;
const CONFIRM_ALL = 'button[name=do][value="confirm-all"]';
const END_ALL = 'button[name=do][value="end-all"]';

let environment;
let browser;

before(async () => {
  environment = await openEnvironment({
    idle: "5m",
    absolute: "1h",
    rotateAfter: `${ROTATE_AFTER_SECONDS}s`,
    grace: "2s",
  });
  browser = await openBrowser(environment.certificate);
});

after(async () => {
  await browser?.close();
  await environment?.end();
});

describe("the login page", () => {
  test("works without JavaScript and leads to the requested page", async () => {
    const alice = await Profile.create(browser, { javaScriptEnabled: false });
    const page = await alice.logIn(`${environment.calendar}/.web/index.html?from=bookmark`, environment.alice);
    assert.equal(page.url(), `${environment.calendar}/.web/index.html?from=bookmark`);
    assert.match(await page.content(), /Radicale/);
    await alice.close();
  });

  test("keeps the fragment of a deep link, also after a wrong password", async () => {
    const alice = await Profile.create(browser, { javaScriptEnabled: false });
    const page = await alice.open(`${environment.calendar}/.web/index.html?x=1#/deep/link`);
    for (const password of ["guessed", environment.alice.password]) {
      await page.fill("input[name=username]", environment.alice.name);
      await page.fill("input[name=password]", password);
      await page.press("input[name=password]", "Enter");
      await page.waitForLoadState();
    }
    await page.waitForURL((now) => !now.pathname.startsWith("/.doorward/"));
    assert.equal(page.url(), `${environment.calendar}/.web/index.html?x=1#/deep/link`);
    await alice.close();
  });

  test("does not show whether the name or the password was wrong", async () => {
    const anonymous = await Profile.create(browser);
    const page = await anonymous.open(`${environment.calendar}/.web/`);
    await screenshot(page, "login");
    const pages = [];
    for (const user of [environment.alice, { name: "unknown-user" }]) {
      await page.goto(`${environment.calendar}/.web/`);
      await page.fill("input[name=username]", user.name);
      await page.fill("input[name=password]", "guessed");
      await page.press("input[name=password]", "Enter");
      await page.waitForLoadState();
      pages.push(await page.locator("body").innerText());
    }
    await screenshot(page, "login-wrong");
    assert.equal(pages[0], pages[1], "the page shows whether the user exists");
    assert.equal(await anonymous.token(environment.calendar), undefined);
    await anonymous.close();
  });

  test("supports dark mode and narrow screens", async () => {
    const small = { width: 360, height: 640 };
    const profile = await Profile.create(browser, {
      colorScheme: "dark",
      viewport: small,
    });
    const page = await profile.open(`${environment.calendar}/.web/`);
    await screenshot(page, "login-dark-narrow");
    const width = await page.evaluate(() => document.documentElement.scrollWidth);
    assert.ok(width <= small.width, `the page is ${width} px wide on a ${small.width} px screen`);
    const background = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    assert.ok(brightness(background) < 100, `dark mode has the background ${background}`);
    assert.deepEqual(await accessibilityViolations(page), []);
    await profile.close();
  });
});

describe("a user with both apps open", () => {
  let alice;
  let calendar;
  let printer;
  let sockets;

  before(async () => {
    alice = await Profile.create(browser);
  });

  after(() => alice.close());

  test("logs in to the calendar under the right name", async () => {
    calendar = await alice.logIn(`${environment.calendar}/.web/`, environment.alice);
    await calendar.getByText("alice's Collections").waitFor();
    await calendar.locator("#collectionsscene [data-name=new]").click();
    await calendar.fill("#create_displayname", "Birthdays");
    await calendar.locator("#createcollectionscene [data-name=submit]").click();
    await calendar.getByText("Birthdays").first().waitFor();
    await screenshot(calendar, "calendar");
  });

  test("logs in to the printer, which uses its WebSocket", async () => {
    sockets = [];
    alice.context.on("page", (page) => page.on("websocket", (socket) => sockets.push(socket)));
    printer = await alice.logIn(`${environment.printer}/`, environment.alice);
    await printer.locator("#navbar_login").getByText("alice").waitFor();
    await until("the page opens a WebSocket", () => sockets.length > 0);
    await printer.locator("#printer_connect").click();
    await printer.locator("#state").getByText("Operational").waitFor();
    await screenshot(printer, "printer");
  });

  test("has a cookie that is hidden from scripts and bound to its host", async () => {
    for (const [page, url] of [[calendar, environment.calendar], [printer, environment.printer]]) {
      const cookie = await alice.cookie(url);
      assert.equal(cookie.httpOnly, true);
      assert.equal(cookie.secure, true);
      assert.ok(["Lax", "Strict"].includes(cookie.sameSite), cookie.sameSite);
      assert.equal(cookie.domain, new URL(url).hostname);
      assert.doesNotMatch(await page.evaluate(() => document.cookie), /doorward/);
    }
  });

  test("receives new tokens without an effect on the open pages", async (t) => {
    const before = [...alice.errors];
    const tokens = { [environment.calendar]: new Set(), [environment.printer]: new Set() };
    await until("each host rotated its token three times", async () => {
      await calendar.evaluate(() => fetch("/", { method: "PROPFIND", headers: { Depth: "1" } }));
      await printer.evaluate(() => OctoPrint.files.list());
      for (const url of Object.keys(tokens)) tokens[url].add(await alice.token(url));
      return Object.values(tokens).every((observed) => observed.size >= 4);
    }, 60);
    await calendar.reload();
    await calendar.getByText("alice's Collections").waitFor();
    await printer.locator("#state").getByText("Operational").waitFor();
    assert.deepEqual(alice.errors, before, "a page had errors during a rotation");
    assert.ok(sockets.every((socket) => !socket.isClosed()), "a rotation closed a WebSocket");
    for (const [url, observed] of Object.entries(tokens)) t.diagnostic(`${url}: ${observed.size} tokens`);
  });

  test("keeps the session when eight tabs open at once with an old token", async () => {
    await new Promise((resolve) => setTimeout(resolve, 2 * ROTATE_AFTER_SECONDS * 1000));
    const tabs = Array.from({ length: 8 }, () => alice.open(`${environment.calendar}/.web/`));
    for (const tab of await Promise.all(tabs)) {
      await tab.getByText("alice's Collections").waitFor();
      await tab.close();
    }
  });

  test("is logged out of both apps by logout everywhere in another browser", async (t) => {
    const otherBrowser = await Profile.create(browser, { userAgent: "OtherBrowser/1.0" });
    await otherBrowser.logIn(`${environment.calendar}/.web/`, environment.alice);
    const sessions = await otherBrowser.open(`${environment.calendar}/.doorward/sessions`);
    await screenshot(sessions, "sessions");
    const open = sockets.filter((socket) => !socket.isClosed());
    assert.ok(open.length > 0, "no WebSocket is open");
    await sessions.locator(CONFIRM_ALL).click();
    await screenshot(sessions, "logout-everywhere");
    const start = Date.now();
    await sessions.locator(END_ALL).click();
    await until("the WebSockets are closed", () => open.every((socket) => socket.isClosed()), CLOSED_WITHIN_SECONDS);
    t.diagnostic(`closed after ${Date.now() - start} ms`);
    await sessions.waitForLoadState();
    await screenshot(sessions, "after-logout-everywhere");
    await otherBrowser.close();
  });

  test("then receives 401 with a JSON body for a fetch", async () => {
    const fetched = await calendar.evaluate(async () => {
      const response = await fetch("/", { method: "PROPFIND", headers: { Depth: "0" } });
      return { status: response.status, type: response.headers.get("content-type"), body: await response.text() };
    });
    assert.equal(fetched.status, 401);
    assert.match(fetched.type, /^application\/json/);
    const body = JSON.parse(fetched.body);
    assert.deepEqual(Object.keys(body).sort(), ["error", "login", "reason"]);
  });

  test("then is redirected to the login and can return", async () => {
    await printer.goto(`${environment.printer}/`);
    assert.match(new URL(printer.url()).pathname, /^\/\.doorward\/login/);
    await screenshot(printer, "login-after-logout");
    const back = await alice.logIn(`${environment.printer}/`, environment.alice);
    await back.locator("#navbar_login").getByText("alice").waitFor();
  });
});

describe("doorward's own pages", () => {
  test("are accessible and allow no scripts of other origins", async () => {
    const carol = await Profile.create(browser);
    await carol.logIn(`${environment.calendar}/.web/`, environment.carol);
    const anonymous = await Profile.create(browser);
    const visits = [
      [anonymous, `${environment.calendar}/.doorward/login`],
      [carol, `${environment.calendar}/.doorward/login`],
      [carol, `${environment.calendar}/.doorward/password`],
      [anonymous, `${environment.calendar}/.doorward/logout`],
      [carol, `${environment.calendar}/.doorward/sessions`],
      [carol, `${environment.calendar}/.doorward/second-factors`],
      [carol, `${environment.calendar}/.doorward/logout`],
      [carol, `${environment.calendar}/.doorward/no-such-page`],
    ];
    for (const [profile, url] of visits) {
      const page = await profile.open(url);
      assert.deepEqual(await accessibilityViolations(page), [], url);
      const policy = (await (await page.reload()).allHeaders())["content-security-policy"];
      assert.match(policy ?? "", /default-src 'none'/, url);
      assert.doesNotMatch(policy, /unsafe/, url);
      await screenshot(page, `own-${visits.findIndex((visit) => visit[1] === url)}`);
    }
    assert.deepEqual(anonymous.errors, []);
    await carol.close();
    await anonymous.close();
  });
});

describe("a page with the session script", () => {
  const check = (page) => page.evaluate(() => document.dispatchEvent(new Event("doorward:check")));

  test("warns before a timeout, under the policy of doorward's pages", async () => {
    const alice = await Profile.create(browser);
    await alice.logIn(`${environment.calendar}/.web/`, environment.alice);
    const page = await alice.open(`${environment.calendar}/.doorward/sessions`);
    let remaining = { idle_seconds: 60, absolute_seconds: 600 };
    await page.route("**/.doorward/session", (route) => route.fulfill({ json: remaining }));
    await check(page);
    await page.getByText("You will be logged out in 60 seconds").waitFor();
    assert.deepEqual(await accessibilityViolations(page), []);
    await screenshot(page, "session-ending");
    remaining = { idle_seconds: 300, absolute_seconds: 600 };
    const stays = page.waitForRequest((request) => request.method() === "HEAD");
    await page.getByRole("button", { name: "Stay logged in" }).click();
    assert.equal(new URL((await stays).url()).pathname, "/.doorward/sessions");
    await page.getByText("You will be logged out").waitFor({ state: "detached" });
    remaining = { idle_seconds: 600, absolute_seconds: 30 };
    await check(page);
    await page.getByText("You will be logged out in 30 seconds").waitFor();
    assert.equal(await page.getByRole("button", { name: "Stay logged in" }).count(), 0);
    assert.deepEqual(alice.errors, []);
    await alice.close();
  });

  test("offers the login after the end and keeps the content of the page", async () => {
    const alice = await Profile.create(browser);
    await alice.logIn(`${environment.calendar}/.web/`, environment.alice);
    const page = await alice.open(`${environment.calendar}/.doorward/sessions`);
    await page.evaluate(() => document.body.append("unsaved work"));
    await alice.context.clearCookies();
    await page.route("**/.doorward/session", (route) => route.fulfill({ status: 503, json: {} }));
    await check(page);
    assert.equal(await page.getByText("You are logged out").count(), 0, "an outage ends no session");
    await page.unroute("**/.doorward/session");
    await check(page);
    await page.getByText("You are logged out").waitFor();
    await screenshot(page, "session-ended");
    const [login] = await Promise.all([
      alice.context.waitForEvent("page"),
      page.getByRole("link", { name: "Log in in a new tab" }).click(),
    ]);
    await login.fill("input[name=username]", environment.alice.name);
    await login.fill("input[name=password]", environment.alice.password);
    await login.press("input[name=password]", "Enter");
    await login.waitForURL(`${environment.calendar}/.doorward/sessions`);
    await page.bringToFront();
    await check(page);
    await page.getByText("You are logged out").waitFor({ state: "detached" });
    await page.getByText("unsaved work").waitFor();
    await alice.close();
  });

  test("lets an app replace the message", async () => {
    const alice = await Profile.create(browser);
    await alice.logIn(`${environment.calendar}/.web/`, environment.alice);
    const page = await alice.open(`${environment.calendar}/.doorward/sessions`);
    const states = await page.evaluate(async () => {
      const received = [];
      const ended = new Promise((resolve) => {
        document.addEventListener("doorward:session", (event) => {
          event.preventDefault();
          received.push(event.detail.state);
          resolve();
        });
      });
      globalThis.fetch = async () => Response.json({ reason: "idle", login: "/" }, { status: 401 });
      document.dispatchEvent(new Event("doorward:check"));
      await ended;
      return received;
    });
    assert.deepEqual(states, ["ended"]);
    assert.equal(await page.getByText("You are logged out").count(), 0);
    await alice.close();
  });
});

describe("a WebSocket handshake", () => {
  test("may set a cookie that Chromium stores and sends", async (t) => {
    const server = await cookieServer(environment);
    t.after(() => server.end());
    const profile = await Profile.create(browser);
    const page = await profile.open(server.url);
    assert.equal(await profile.token(server.url), "from-the-page");
    await page.evaluate(openSocket, "/socket");
    assert.equal(await profile.token(server.url), "from-the-handshake");
    await page.reload();
    assert.match(server.lastCookie(), /from-the-handshake/);
    await profile.close();
  });

  test("with a token that is due for rotation keeps the session", async (t) => {
    const alice = await Profile.create(browser);
    await (await alice.logIn(`${environment.printer}/`, environment.alice)).close();
    // A page of the same host that sends no requests of its own.
    const quiet = await alice.open(`${environment.printer}/api/version`);
    const handshakes = await watchHandshakes(alice.context, quiet);
    await new Promise((resolve) => setTimeout(resolve, 2.5 * ROTATE_AFTER_SECONDS * 1000));
    const before = await alice.token(environment.printer);
    await quiet.evaluate(openSocket, "/sockjs/123/afterpause/websocket");
    const [handshake] = await until("the handshake is recorded", () => handshakes.length && handshakes);
    const rotated = (await alice.token(environment.printer)) !== before;
    assert.equal(rotated, /^set-cookie: __Host-doorward=/im.test(handshake), handshake);
    t.diagnostic(`the handshake ${rotated ? "carried a new token" : "did not change the token"}`);
    await quiet.reload();
    assert.match(await quiet.content(), /OctoPrint/);
    assert.deepEqual(alice.errors, []);
    await alice.close();
  });
});

describe("a user without the required group", () => {
  test("receives a page that explains the refusal", async () => {
    const bob = await Profile.create(browser);
    const refused = await bob.logIn(`${environment.printer}/`, environment.bob);
    await screenshot(refused, "not-allowed");
    assert.ok(bob.errors.some((error) => error.startsWith("403 GET")), bob.errors.join("\n"));
    assert.equal(await refused.locator("#navbar_login").count(), 0);
    await bob.close();
  });
});

/// Runs in the page. Resolves when a WebSocket to `path` is open.
function openSocket(path) {
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(`wss://${location.host}${path}`);
    socket.onopen = () => resolve();
    socket.onerror = () => reject(new Error("the WebSocket did not open"));
  });
}

/// Returns a list that receives the raw handshake responses of the page's WebSockets.
async function watchHandshakes(context, page) {
  const responses = [];
  const session = await context.newCDPSession(page);
  session.on("Network.webSocketHandshakeResponseReceived", ({ response }) => {
    const lines = Object.entries(response.headers).map(([name, value]) => `${name}: ${value}`);
    responses.push(response.headersText ?? lines.join("\n"));
  });
  await session.send("Network.enable");
  return responses;
}

function brightness(color) {
  const [red, green, blue] = color.match(/\d+/g).map(Number);
  return (red + green + blue) / 3;
}

// The last tests: from now on, carol needs her passkey.
describe("a passkey", () => {
  test("is set up and then completes a login", async () => {
    const carol = await Profile.create(browser);
    const page = await carol.logIn(`${environment.calendar}/.web/`, environment.carol);
    const devtools = await carol.context.newCDPSession(page);
    await devtools.send("WebAuthn.enable");
    await devtools.send("WebAuthn.addVirtualAuthenticator", {
      options: {
        protocol: "ctap2",
        transport: "internal",
        hasResidentKey: true,
        hasUserVerification: true,
        isUserVerified: true,
        automaticPresenceSimulation: true,
      },
    });
    await page.goto(`${environment.calendar}/.doorward/second-factors`);
    await page.fill("#passkey-name", "laptop");
    await page.click("form[data-passkey] button");
    await page.waitForSelector("text=Your recovery codes");
    await screenshot(page, "passkey-added");
    await carol.context.clearCookies();
    await page.goto(`${environment.calendar}/.doorward/login`);
    await page.fill("input[name=username]", environment.carol.name);
    await page.fill("input[name=password]", environment.carol.password);
    await page.press("input[name=password]", "Enter");
    await page.waitForSelector("text=Second step");
    assert.equal(await carol.token(environment.calendar), undefined);
    assert.deepEqual(await accessibilityViolations(page), []);
    await screenshot(page, "passkey-login");
    await page.click("form[data-passkey] button");
    await until("the login is complete", () => carol.token(environment.calendar));
    assert.deepEqual(carol.errors, []);
    await carol.close();
  });
});
