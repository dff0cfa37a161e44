"""Measures all servers in interleaved rounds. Ratios are computed within a round, because machines drift."""

import os
import signal
import statistics
import sys
import time
from pathlib import Path

import clients
import report
from servers import Servers

BASE = "nginx"
LOADS = {"HTTP/1.1": clients.http1, "HTTP/2": clients.http2}


class Candidate:
    """A measured server and the cookies of its requests."""

    def __init__(self, name, server, cookies, log=None):
        self.name, self.server, self.cookies = name, server, cookies
        self.log = log
        self.idle = None

    def take_log_lines(self):
        """Returns the number of lines of the access log and empties it."""
        with self.log.open("rb+") as log:
            lines = sum(chunk.count(b"\n") for chunk in iter(lambda: log.read(1 << 20), b""))
            log.truncate(0)
        return lines


def main():
    rounds, window, idle = (int(os.environ[name]) for name in ("ROUNDS", "WINDOW", "IDLE"))
    servers = Servers(sys.argv[1])
    candidates = start_candidates(servers)
    for candidate in candidates:
        # Measured first, because a heap keeps its size after a load.
        if "log" not in candidate.name:
            candidate.idle = clients.idle_kib(candidate.server, candidate.cookies, idle)
            print_progress(f"{candidate.name}: {candidate.idle:.1f} KiB per idle connection")
    samples = [measure_round(servers, candidates, number, window) for number in range(rounds)]
    results = {
        "loads": {load: summary(load, candidates, samples) for load in LOADS},
        "idle": {candidate.name: candidate.idle for candidate in candidates if candidate.idle},
        "logged": min(sample["logged"] for sample in samples),
        "rounds": rounds, "window": window, "idle_count": idle, "cores": os.cpu_count(),
    }
    print(report.markdown(results))
    if not os.environ.get("SMOKE"):
        report.write(Path(os.environ["OUT"]), results)


def start_candidates(servers):
    quiet, logging = servers.nginx()
    builds = {"doorward": os.environ["DOORWARD"]}
    if os.environ["DIST"]:
        builds["doorward with PGO"] = os.environ["DIST"]
    if os.environ["AGAINST"]:
        builds["other build"] = os.environ["AGAINST"]
    gateways = [
        (name + suffix, binary, log)
        for name, binary in builds.items()
        for suffix, log in (("", False), (", access log", True))
    ]
    started = []
    for number, (name, binary, log) in enumerate(gateways):
        server = servers.doorward(binary, f"gateway{number}", log)
        cookies = servers.directory / f"gateway{number}" / "cookies"
        start = time.monotonic()
        cookies.write_text("\n".join(clients.log_in_all(server.port)) + "\n")
        print_progress(f"{name}: {clients.SESSIONS} logins in {time.monotonic() - start:.0f} s")
        started.append(Candidate(name, server, cookies, server.log if log else None))
    # nginx receives the same requests and ignores the cookies.
    cookies = started[0].cookies
    return [Candidate(BASE, quiet, cookies), Candidate("nginx, access log", logging, cookies), *started]


def measure_round(servers, candidates, number, window):
    # Each round starts with another candidate, because the first one runs on a cooler CPU.
    order = candidates[number % len(candidates):] + candidates[: number % len(candidates)]
    sample = {}
    for load, run in LOADS.items():
        for candidate in order:
            if candidate.log:
                candidate.take_log_lines()
            result = run(candidate.server, servers.upstream, candidate.cookies, window)
            if candidate.log:
                # The gateway drops log entries under load. Dropped entries would lower the measured cost.
                time.sleep(1)
                share = candidate.take_log_lines() / result["sent"]
                sample["logged"] = min(share, sample.get("logged", 1))
            sample[load, candidate.name] = result
            print_progress(f"round {number + 1}, {load}, {candidate.name}: "
                f"{result['cpu']:.2f} CPU s per 100k, {result['rate']:.0f}/s")
    return sample


def summary(load, candidates, samples):
    """Returns medians, and medians of the ratios to nginx within a round."""
    result = {}
    for candidate in candidates:
        own = [sample[load, candidate.name] for sample in samples]
        base = [sample[load, BASE] for sample in samples]
        row = {}
        for figure in own[0].keys() - {"sent"}:
            ratios = [one[figure] / other[figure] for one, other in zip(own, base)]
            row[figure] = statistics.median(one[figure] for one in own)
            row[figure + " ratio"] = statistics.median(ratios)
            row[figure + " spread"] = (min(ratios), max(ratios))
        result[candidate.name] = row
    return result


def print_progress(text):
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    main()
