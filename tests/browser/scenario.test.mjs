// People with a real browser behind the gateway, with times short enough to watch.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";

import { barriers, openBrowser, Person, picture, until } from "./browser.mjs";
import { cookieServer } from "./cookie-server.mjs";
import { openStage } from "./stage.mjs";

const ROTATE_AFTER_SECONDS = 4;
// The promise is one second; the rest is for a busy machine.
const CUT_WITHIN_SECONDS = 3;
const ASK_ALL = 'button[name=do][value="confirm-all"]';
const END_ALL = 'button[name=do][value="end-all"]';

let stage;
let browser;

before(async () => {
  stage = await openStage({
    idle: "5m",
    absolute: "1h",
    rotateAfter: `${ROTATE_AFTER_SECONDS}s`,
    grace: "2s",
  });
  browser = await openBrowser(stage.certificate);
});

after(async () => {
  await browser?.close();
  await stage?.end();
});

describe("the login page", () => {
  test("works without JavaScript and leads to the page that was asked for", async () => {
    const alice = await Person.sitsDown(browser, { javaScriptEnabled: false });
    const page = await alice.logsIn(`${stage.calendar}/.web/index.html?from=bookmark`, stage.alice);
    assert.equal(page.url(), `${stage.calendar}/.web/index.html?from=bookmark`);
    assert.match(await page.content(), /Radicale/);
    await alice.leaves();
  });

  test("keeps the fragment of a deep link, also after a wrong password", async () => {
    const alice = await Person.sitsDown(browser, { javaScriptEnabled: false });
    const page = await alice.opens(`${stage.calendar}/.web/index.html?x=1#/deep/link`);
    for (const password of ["guessed", stage.alice.password]) {
      await page.fill("input[name=username]", stage.alice.name);
      await page.fill("input[name=password]", password);
      await page.press("input[name=password]", "Enter");
      await page.waitForLoadState();
    }
    await page.waitForURL((now) => !now.pathname.startsWith("/.doorward/"));
    assert.equal(page.url(), `${stage.calendar}/.web/index.html?x=1#/deep/link`);
    await alice.leaves();
  });

  test("says that the password was wrong, without saying which part, and opens nothing", async () => {
    const stranger = await Person.sitsDown(browser);
    const page = await stranger.opens(`${stage.calendar}/.web/`);
    await picture(page, "login");
    const pages = [];
    for (const user of [stage.alice, { name: "nobody-here" }]) {
      await page.goto(`${stage.calendar}/.web/`);
      await page.fill("input[name=username]", user.name);
      await page.fill("input[name=password]", "guessed");
      await page.press("input[name=password]", "Enter");
      await page.waitForLoadState();
      pages.push(await page.locator("body").innerText());
    }
    await picture(page, "login-wrong");
    assert.equal(pages[0], pages[1], "the page shows whether the user exists");
    assert.equal(await stranger.token(stage.calendar), undefined);
    await stranger.leaves();
  });

  test("follows a dark screen and a narrow one", async () => {
    const small = { width: 360, height: 640 };
    const person = await Person.sitsDown(browser, {
      colorScheme: "dark",
      viewport: small,
    });
    const page = await person.opens(`${stage.calendar}/.web/`);
    await picture(page, "login-dark-narrow");
    const width = await page.evaluate(() => document.documentElement.scrollWidth);
    assert.ok(width <= small.width, `the page is ${width} px wide on a ${small.width} px screen`);
    const lightness = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    assert.ok(brightness(lightness) < 100, `a dark screen got ${lightness}`);
    assert.deepEqual(await barriers(page), []);
    await person.leaves();
  });
});

describe("a person with both apps open", () => {
  let alice;
  let calendar;
  let printer;
  let sockets;

  before(async () => {
    alice = await Person.sitsDown(browser);
  });

  after(() => alice.leaves());

  test("logs in and is herself in the calendar", async () => {
    calendar = await alice.logsIn(`${stage.calendar}/.web/`, stage.alice);
    await calendar.getByText("alice's Collections").waitFor();
    await calendar.locator("#collectionsscene [data-name=new]").click();
    await calendar.fill("#create_displayname", "Birthdays");
    await calendar.locator("#createcollectionscene [data-name=submit]").click();
    await calendar.getByText("Birthdays").first().waitFor();
    await picture(calendar, "calendar");
  });

  test("logs in and is herself at the printer, over its WebSocket", async () => {
    sockets = [];
    alice.context.on("page", (page) => page.on("websocket", (socket) => sockets.push(socket)));
    printer = await alice.logsIn(`${stage.printer}/`, stage.alice);
    await printer.locator("#navbar_login").getByText("alice").waitFor();
    await until("the page talks over a WebSocket", () => sockets.length > 0);
    await printer.locator("#printer_connect").click();
    await printer.locator("#state").getByText("Operational").waitFor();
    await picture(printer, "printer");
  });

  test("has a cookie that no script can read and no other host gets", async () => {
    for (const [page, url] of [[calendar, stage.calendar], [printer, stage.printer]]) {
      const cookie = await alice.cookie(url);
      assert.equal(cookie.httpOnly, true);
      assert.equal(cookie.secure, true);
      assert.ok(["Lax", "Strict"].includes(cookie.sameSite), cookie.sameSite);
      assert.equal(cookie.domain, new URL(url).hostname);
      assert.doesNotMatch(await page.evaluate(() => document.cookie), /doorward/);
    }
  });

  test("gets new tokens while both pages work on, and neither page notices", async (t) => {
    const before = [...alice.troubles];
    const tokens = { [stage.calendar]: new Set(), [stage.printer]: new Set() };
    await until("each host rotated its token three times", async () => {
      await calendar.evaluate(() => fetch("/", { method: "PROPFIND", headers: { Depth: "1" } }));
      await printer.evaluate(() => OctoPrint.files.list());
      for (const url of Object.keys(tokens)) tokens[url].add(await alice.token(url));
      return Object.values(tokens).every((seen) => seen.size >= 4);
    }, 60);
    await calendar.reload();
    await calendar.getByText("alice's Collections").waitFor();
    await printer.locator("#state").getByText("Operational").waitFor();
    assert.deepEqual(alice.troubles, before, "a page noticed the rotation");
    assert.ok(sockets.every((socket) => !socket.isClosed()), "a rotation cut a WebSocket");
    for (const [url, seen] of Object.entries(tokens)) t.diagnostic(`${url}: ${seen.size} tokens seen`);
  });

  test("keeps her session when eight tabs come at once with an old token", async () => {
    await new Promise((resolve) => setTimeout(resolve, 2 * ROTATE_AFTER_SECONDS * 1000));
    const tabs = Array.from({ length: 8 }, () => alice.opens(`${stage.calendar}/.web/`));
    for (const tab of await Promise.all(tabs)) {
      await tab.getByText("alice's Collections").waitFor();
      await tab.close();
    }
  });

  test("is logged out at both apps when she logs out everywhere in another browser", async (t) => {
    const elsewhere = await Person.sitsDown(browser, { userAgent: "Elsewhere/1.0 (another browser)" });
    await elsewhere.logsIn(`${stage.calendar}/.web/`, stage.alice);
    const sessions = await elsewhere.opens(`${stage.calendar}/.doorward/sessions`);
    await picture(sessions, "sessions");
    const open = sockets.filter((socket) => !socket.isClosed());
    assert.ok(open.length > 0, "no WebSocket is open that could be cut");
    await sessions.locator(ASK_ALL).click();
    await picture(sessions, "logout-everywhere");
    const asked = Date.now();
    await sessions.locator(END_ALL).click();
    await until("her WebSockets are cut", () => open.every((socket) => socket.isClosed()), CUT_WITHIN_SECONDS);
    t.diagnostic(`cut after ${Date.now() - asked} ms`);
    await sessions.waitForLoadState();
    await picture(sessions, "after-logout-everywhere");
    await elsewhere.leaves();
  });

  test("gets 401 for what a page fetches then, as JSON that says why", async () => {
    const fetched = await calendar.evaluate(async () => {
      const response = await fetch("/", { method: "PROPFIND", headers: { Depth: "0" } });
      return { status: response.status, type: response.headers.get("content-type"), body: await response.text() };
    });
    assert.equal(fetched.status, 401);
    assert.match(fetched.type, /^application\/json/);
    const body = JSON.parse(fetched.body);
    assert.deepEqual(Object.keys(body).sort(), ["error", "login", "reason"]);
  });

  test("is sent to login when she navigates then, and can come back", async () => {
    await printer.goto(`${stage.printer}/`);
    assert.match(new URL(printer.url()).pathname, /^\/\.doorward\/login/);
    await picture(printer, "login-after-logout");
    const back = await alice.logsIn(`${stage.printer}/`, stage.alice);
    await back.locator("#navbar_login").getByText("alice").waitFor();
  });
});

describe("doorward's own pages", () => {
  test("put no barrier before anybody and run nothing of a stranger", async () => {
    const carol = await Person.sitsDown(browser);
    await carol.logsIn(`${stage.calendar}/.web/`, stage.carol);
    const stranger = await Person.sitsDown(browser);
    const visits = [
      [stranger, `${stage.calendar}/.doorward/login`],
      [carol, `${stage.calendar}/.doorward/login`],
      [carol, `${stage.calendar}/.doorward/password`],
      [stranger, `${stage.calendar}/.doorward/logout`],
      [carol, `${stage.calendar}/.doorward/sessions`],
      [carol, `${stage.calendar}/.doorward/logout`],
      [carol, `${stage.calendar}/.doorward/no-such-page`],
    ];
    for (const [person, url] of visits) {
      const page = await person.opens(url);
      assert.deepEqual(await barriers(page), [], url);
      const policy = (await (await page.reload()).allHeaders())["content-security-policy"];
      assert.match(policy ?? "", /default-src 'none'/, url);
      assert.doesNotMatch(policy, /unsafe/, url);
      await picture(page, `own-${visits.findIndex((visit) => visit[1] === url)}`);
    }
    assert.deepEqual(stranger.troubles, []);
    await carol.leaves();
    await stranger.leaves();
  });
});

describe("a page with the session script", () => {
  const check = (page) => page.evaluate(() => document.dispatchEvent(new Event("doorward:check")));

  test("warns before a timeout, under the policy of our own pages", async () => {
    const alice = await Person.sitsDown(browser);
    await alice.logsIn(`${stage.calendar}/.web/`, stage.alice);
    const page = await alice.opens(`${stage.calendar}/.doorward/sessions`);
    let left = { idle_seconds: 60, absolute_seconds: 600 };
    await page.route("**/.doorward/session", (route) => route.fulfill({ json: left }));
    await check(page);
    await page.getByText("You will be logged out in 60 seconds").waitFor();
    assert.deepEqual(await barriers(page), []);
    await picture(page, "session-ending");
    left = { idle_seconds: 300, absolute_seconds: 600 };
    const stays = page.waitForRequest((request) => request.method() === "HEAD");
    await page.getByRole("button", { name: "Stay logged in" }).click();
    assert.equal(new URL((await stays).url()).pathname, "/.doorward/sessions");
    await page.getByText("You will be logged out").waitFor({ state: "detached" });
    left = { idle_seconds: 600, absolute_seconds: 30 };
    await check(page);
    await page.getByText("You will be logged out in 30 seconds").waitFor();
    assert.equal(await page.getByRole("button", { name: "Stay logged in" }).count(), 0);
    assert.deepEqual(alice.troubles, []);
    await alice.leaves();
  });

  test("offers the login after the end, keeps its content and goes on", async () => {
    const alice = await Person.sitsDown(browser);
    await alice.logsIn(`${stage.calendar}/.web/`, stage.alice);
    const page = await alice.opens(`${stage.calendar}/.doorward/sessions`);
    await page.evaluate(() => document.body.append("unsaved work"));
    await alice.context.clearCookies();
    await page.route("**/.doorward/session", (route) => route.fulfill({ status: 503, json: {} }));
    await check(page);
    assert.equal(await page.getByText("You are logged out").count(), 0, "an outage ends no session");
    await page.unroute("**/.doorward/session");
    await check(page);
    await page.getByText("You are logged out").waitFor();
    await picture(page, "session-ended");
    const [login] = await Promise.all([
      alice.context.waitForEvent("page"),
      page.getByRole("link", { name: "Log in in a new tab" }).click(),
    ]);
    await login.fill("input[name=username]", stage.alice.name);
    await login.fill("input[name=password]", stage.alice.password);
    await login.press("input[name=password]", "Enter");
    await login.waitForURL(`${stage.calendar}/.doorward/sessions`);
    await page.bringToFront();
    await check(page);
    await page.getByText("You are logged out").waitFor({ state: "detached" });
    await page.getByText("unsaved work").waitFor();
    await alice.leaves();
  });

  test("lets an app replace the message", async () => {
    const alice = await Person.sitsDown(browser);
    await alice.logsIn(`${stage.calendar}/.web/`, stage.alice);
    const page = await alice.opens(`${stage.calendar}/.doorward/sessions`);
    const states = await page.evaluate(async () => {
      const seen = [];
      const ended = new Promise((resolve) => {
        document.addEventListener("doorward:session", (event) => {
          event.preventDefault();
          seen.push(event.detail.state);
          resolve();
        });
      });
      globalThis.fetch = async () => Response.json({ reason: "idle", login: "/" }, { status: 401 });
      document.dispatchEvent(new Event("doorward:check"));
      await ended;
      return seen;
    });
    assert.deepEqual(states, ["ended"]);
    assert.equal(await page.getByText("You are logged out").count(), 0);
    await alice.leaves();
  });
});

describe("a WebSocket handshake", () => {
  test("brings Chromium a cookie that it keeps and sends with the next request", async (t) => {
    const server = await cookieServer(stage);
    t.after(() => server.end());
    const person = await Person.sitsDown(browser);
    const page = await person.opens(server.url);
    assert.equal(await person.token(server.url), "from-the-page");
    await page.evaluate(openSocket, "/socket");
    assert.equal(await person.token(server.url), "from-the-handshake");
    await page.reload();
    assert.match(server.lastCookie(), /from-the-handshake/);
    await person.leaves();
  });

  test("with a token that is due for rotation leaves the session whole", async (t) => {
    const alice = await Person.sitsDown(browser);
    await (await alice.logsIn(`${stage.printer}/`, stage.alice)).close();
    // A page of the same host that asks for nothing by itself.
    const quiet = await alice.opens(`${stage.printer}/api/version`);
    const handshakes = await watchHandshakes(alice.context, quiet);
    await new Promise((resolve) => setTimeout(resolve, 2.5 * ROTATE_AFTER_SECONDS * 1000));
    const before = await alice.token(stage.printer);
    await quiet.evaluate(openSocket, "/sockjs/123/afterarest/websocket");
    const [handshake] = await until("the handshake is seen", () => handshakes.length && handshakes);
    const rotated = (await alice.token(stage.printer)) !== before;
    assert.equal(rotated, /^set-cookie: __Host-doorward=/im.test(handshake), handshake);
    t.diagnostic(`the handshake ${rotated ? "carried a new token" : "left the token as it was"}`);
    await quiet.reload();
    assert.match(await quiet.content(), /OctoPrint/);
    assert.deepEqual(alice.troubles, []);
    await alice.leaves();
  });
});

describe("a person without the right group", () => {
  test("is told so on a page of its own, and stays logged in elsewhere", async () => {
    const bob = await Person.sitsDown(browser);
    const refused = await bob.logsIn(`${stage.printer}/`, stage.bob);
    await picture(refused, "not-allowed");
    assert.ok(bob.troubles.some((trouble) => trouble.startsWith("403 GET")), bob.troubles.join("\n"));
    assert.equal(await refused.locator("#navbar_login").count(), 0);
    await bob.leaves();
  });
});

/// Runs in the page: resolves when a WebSocket to `path` is open.
function openSocket(path) {
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(`wss://${location.host}${path}`);
    socket.onopen = () => resolve();
    socket.onerror = () => reject(new Error("the WebSocket did not open"));
  });
}

/// The raw responses to WebSocket handshakes of a page, as the network saw them.
async function watchHandshakes(context, page) {
  const seen = [];
  const session = await context.newCDPSession(page);
  session.on("Network.webSocketHandshakeResponseReceived", ({ response }) => {
    const lines = Object.entries(response.headers).map(([name, value]) => `${name}: ${value}`);
    seen.push(response.headersText ?? lines.join("\n"));
  });
  await session.send("Network.enable");
  return seen;
}

function brightness(color) {
  const [red, green, blue] = color.match(/\d+/g).map(Number);
  return (red + green + blue) / 3;
}
