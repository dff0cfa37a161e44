// Runs tests/apps/environment.py: the apps and the gateway in front of them.

import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

const SCRIPT = fileURLToPath(new URL("../apps/environment.py", import.meta.url));

/// Starts everything. Resolves to the JSON of the script and a function `end`, which ends all processes.
export async function openEnvironment({ idle, absolute, rotateAfter, grace }) {
  const argv = [SCRIPT, idle, absolute, rotateAfter, grace];
  const child = spawn(process.env.PYTHON, argv, { stdio: ["pipe", "pipe", "inherit"] });
  const ended = new Promise((resolve) => child.once("exit", resolve));
  for await (const line of createInterface(child.stdout)) {
    return { ...JSON.parse(line), end: () => end(child, ended) };
  }
  throw new Error(`the environment did not start: exit ${await ended}`);
}

// The script ends its child processes and itself when its standard input closes.
async function end(child, ended) {
  child.stdin.end();
  await ended;
}
