// Chromium and the people in front of it. Each person has a profile of her own.

import { createHash, X509Certificate } from "node:crypto";
import { createRequire } from "node:module";
import { mkdirSync } from "node:fs";
import path from "node:path";

const packages = process.env.NPM_PACKAGES;
const installed = createRequire(path.join(packages, "/"));
const { chromium } = installed("playwright-core");
const { source: axe } = installed("axe-core");

const SESSION_COOKIE = "__Host-doorward";
const QUIET = [
  "--no-sandbox",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  "--disable-quic",
  "--no-first-run",
];

/// Chromium, trusting this one key and no other that it does not know.
export function openBrowser(certificate) {
  return chromium.launch({
    executablePath: process.env.CHROMIUM,
    args: [...QUIET, `--ignore-certificate-errors-spki-list=${keyFingerprint(certificate)}`],
  });
}

function keyFingerprint(certificate) {
  const key = new X509Certificate(certificate).publicKey.export({ type: "spki", format: "der" });
  return createHash("sha256").update(key).digest("base64");
}

/// One person with one profile, and a diary of all that went wrong on her pages.
export class Person {
  static async sitsDown(browser, options = {}) {
    const context = await browser.newContext({ locale: "en-GB", ...options });
    context.setDefaultTimeout(20_000);
    return new Person(context);
  }

  constructor(context) {
    this.context = context;
    this.troubles = [];
    context.on("response", (response) => this.#note(response));
    context.on("weberror", (error) => this.troubles.push(`script: ${error.error()}`));
  }

  async opens(url) {
    const page = await this.context.newPage();
    await page.goto(url);
    return page;
  }

  /// Fills in the login page that `url` leads to.
  async logsIn(url, user) {
    const page = await this.opens(url);
    await page.fill("input[name=username]", user.name);
    await page.fill("input[name=password]", user.password);
    await Promise.all([
      page.waitForURL((now) => !now.pathname.startsWith("/.doorward/")),
      page.press("input[name=password]", "Enter"),
    ]);
    return page;
  }

  /// The value of her session cookie at the host of `url`.
  async token(url) {
    return (await this.cookie(url))?.value;
  }

  async cookie(url) {
    const cookies = await this.context.cookies(url);
    return cookies.find((cookie) => cookie.name === SESSION_COOKIE);
  }

  leaves() {
    return this.context.close();
  }

  // 404 is the app's own business: its page asks for things that are switched off.
  #note(response) {
    if (response.status() >= 400 && response.status() !== 404) {
      this.troubles.push(`${response.status()} ${response.request().method()} ${response.url()}`);
    }
  }
}

/// Keeps what the person sees, for a person to look at.
export async function picture(page, name) {
  mkdirSync(packages, { recursive: true });
  await page.screenshot({ path: path.join(packages, `${name}.png`), fullPage: true });
}

/// What keeps people with a screen reader, a keyboard or weak eyes from using the page (WCAG 2.2, AA).
export async function barriers(page) {
  await page.evaluate(axe);
  const tags = ["wcag2a", "wcag2aa", "wcag21aa", "wcag22aa", "best-practice"];
  const { violations } = await page.evaluate((values) => globalThis.axe.run({ runOnly: values }), tags);
  return violations.map(({ id, help, nodes }) => `${id}: ${help}: ${nodes[0].html}`);
}

/// Repeats a check until it is true. Fails with the name of the check after the deadline.
export async function until(what, check, seconds = 20) {
  const deadline = Date.now() + seconds * 1000;
  while (Date.now() < deadline) {
    const result = await check();
    if (result) return result;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  throw new Error(`waited ${seconds} s in vain until ${what}`);
}
