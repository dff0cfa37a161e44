// Chromium with one profile for each user.

import { createHash, X509Certificate } from "node:crypto";
import { createRequire } from "node:module";
import { mkdirSync } from "node:fs";
import path from "node:path";

const packages = process.env.NPM_PACKAGES;
const installed = createRequire(path.join(packages, "/"));
const { chromium } = installed("playwright-core");
const { source: axe } = installed("axe-core");

const SESSION_COOKIE = "__Host-doorward";
const ARGUMENTS = [
  "--no-sandbox",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  "--disable-quic",
  "--no-first-run",
];

/// Starts Chromium, which accepts the key of this certificate in addition to the public CAs.
export function openBrowser(certificate) {
  return chromium.launch({
    executablePath: process.env.CHROMIUM,
    args: [...ARGUMENTS, `--ignore-certificate-errors-spki-list=${keyFingerprint(certificate)}`],
  });
}

function keyFingerprint(certificate) {
  const key = new X509Certificate(certificate).publicKey.export({ type: "spki", format: "der" });
  return createHash("sha256").update(key).digest("base64");
}

/// One browser profile. `errors` lists failed responses and script errors of its pages.
export class Profile {
  static async create(browser, options = {}) {
    const context = await browser.newContext({ locale: "en-GB", ...options });
    context.setDefaultTimeout(20_000);
    return new Profile(context);
  }

  constructor(context) {
    this.context = context;
    this.errors = [];
    context.on("response", (response) => this.#record(response));
    context.on("weberror", (error) => this.errors.push(`script: ${error.error()}`));
  }

  async open(url) {
    const page = await this.context.newPage();
    await page.goto(url);
    return page;
  }

  /// Opens `url` and fills in the login page to which it redirects.
  async logIn(url, user) {
    const page = await this.open(url);
    await page.fill("input[name=username]", user.name);
    await page.fill("input[name=password]", user.password);
    await Promise.all([
      page.waitForURL((now) => !now.pathname.startsWith("/.doorward/")),
      page.press("input[name=password]", "Enter"),
    ]);
    return page;
  }

  /// Returns the session token for the host of `url`.
  async token(url) {
    return (await this.cookie(url))?.value;
  }

  async cookie(url) {
    const cookies = await this.context.cookies(url);
    return cookies.find((cookie) => cookie.name === SESSION_COOKIE);
  }

  close() {
    return this.context.close();
  }

  // Ignores 404: the page of an app requests features that are disabled.
  #record(response) {
    if (response.status() >= 400 && response.status() !== 404) {
      this.errors.push(`${response.status()} ${response.request().method()} ${response.url()}`);
    }
  }
}

/// Writes a screenshot to target/browser.
export async function screenshot(page, name) {
  mkdirSync(packages, { recursive: true });
  await page.screenshot({ path: path.join(packages, `${name}.png`), fullPage: true });
}

/// Returns the accessibility violations of the page (WCAG 2.2, AA).
export async function accessibilityViolations(page) {
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
  throw new Error(`timeout after ${seconds} s: ${what}`);
}
