"""Programs with a personal access token: git and curl against an app that requires a session."""

import contextlib
import os
import pathlib
import subprocess
import tempfile
import unittest

from clients import Curl
from gateway_process import USER, Route, program, start_gateway
from servers_running import server

HOST = "files.localhost"


class Tokens(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        home = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory(prefix="doorward-compat-")))
        port = cls.enterClassContext(server("files", home))
        cls.home = home
        cls.repository(home / "files" / "repo.git")
        route = Route(HOST, f"http://127.0.0.1:{port}", "session", "tokens = true")
        cls.gateway = cls.enterClassContext(start_gateway([route]))

    @staticmethod
    def repository(path: pathlib.Path):
        """A repository that any file server can serve."""
        run = lambda *argv: subprocess.run(("git", "-C", path, *argv), check=True, capture_output=True)
        path.mkdir(parents=True)
        run("init", "-q", "--bare", ".")
        tree = run("hash-object", "-t", "tree", "-w", "/dev/null").stdout.strip()
        identity = ("-c", "user.name=a", "-c", "user.email=a@example.test")
        commit = run(*identity, "commit-tree", tree.decode(), "-m", "first").stdout.strip().decode()
        run("update-ref", "HEAD", commit)
        run("update-server-info")

    def doorward(self, *arguments: str) -> str:
        argv = [program(), "token", *arguments, "--socket", str(self.gateway.home / "admin.sock")]
        return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60).stdout.strip()

    def clone(self, credentials: str) -> subprocess.CompletedProcess:
        url = f"https://{credentials}{HOST}:{self.gateway.port}/repo.git"
        resolve = f"{HOST}:{self.gateway.port}:127.0.0.1"
        authority = str(self.gateway.home / "certs/ca.pem")
        environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0", "GIT_SSL_CAINFO": authority}
        with tempfile.TemporaryDirectory() as into, contextlib.chdir(into):
            argv = ["git", "-c", f"http.curloptResolve={resolve}", "clone", "-q", url, "clone"]
            return subprocess.run(argv, capture_output=True, text=True, env=environment, timeout=60)

    def test_git_clones_with_a_token_as_password(self):
        token = self.doorward("add", USER, "--name", "git", "--route", f"{HOST}/", "--method", "GET")
        done = self.clone(f"{USER}:{token}@")
        self.assertEqual(done.returncode, 0, done.stderr)
        for wrong in ("", f"bob:{token}@", f"{USER}:{token[:-1]}A@"):
            self.assertNotEqual(self.clone(wrong).returncode, 0, wrong)

    def test_curl_sends_a_token_in_each_place(self):
        token = self.doorward("add", USER, "--name", "curl")
        for options in (
            ("-H", f"Authorization: Bearer {token}"),
            ("--user", f"{USER}:{token}"),
            ("-H", f"X-Doorward-Token: {token}"),
        ):
            for protocol in ("--http1.1", "--http2"):
                response = Curl(self.gateway, protocol, *options).send(HOST, "GET", "/text.txt")
                self.assertEqual((response.status, len(response.body)), (200, 130_000), options)
        listed = [line for line in self.doorward("list", USER).splitlines() if " curl " in line]
        handle = listed[0].split()[0]
        self.doorward("delete", USER, handle)
        response = Curl(self.gateway, "--user", f"{USER}:{token}").send(HOST, "GET", "/text.txt")
        self.assertEqual(response.status, 401)
        self.assertIn(b"token-unknown", response.body)


if __name__ == "__main__":
    unittest.main()
