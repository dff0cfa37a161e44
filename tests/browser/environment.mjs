// The apps and the gateway, run by tests/apps/stage.py, seen from the browser's side.

import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

const STAGE = fileURLToPath(new URL("../apps/stage.py", import.meta.url));

/// Starts everything; resolves to what stage.py says about itself, with an `end` that takes it down.
export async function openStage({ idle, absolute, rotateAfter, grace }) {
  const argv = [STAGE, idle, absolute, rotateAfter, grace];
  const child = spawn(process.env.PYTHON, argv, { stdio: ["pipe", "pipe", "inherit"] });
  const ended = new Promise((resolve) => child.once("exit", resolve));
  for await (const line of createInterface(child.stdout)) {
    return { ...JSON.parse(line), end: () => end(child, ended) };
  }
  throw new Error(`the stage did not open: exit ${await ended}`);
}

// A closed standard input is the word to go; the children go with it.
async function end(child, ended) {
  child.stdin.end();
  await ended;
}
