"""Rounds of measurements, interleaved: ratios are taken inside a round, since machines drift."""

import os
import signal
import statistics
import sys
import time
from pathlib import Path

import clients
import report
from stage import Stage

BASE = "nginx"
LOADS = {"HTTP/1.1": clients.http1, "HTTP/2": clients.http2}


class Contender:
    """A server under test and the cookies that it is asked with."""

    def __init__(self, name, server, cookies, log=None):
        self.name, self.server, self.cookies = name, server, cookies
        self.log = log
        self.idle = None

    def take_log_lines(self):
        """How many lines the request log has; it is empty after this."""
        with self.log.open("rb+") as log:
            lines = sum(chunk.count(b"\n") for chunk in iter(lambda: log.read(1 << 20), b""))
            log.truncate(0)
        return lines


def main():
    rounds, window, idle = (int(os.environ[name]) for name in ("ROUNDS", "WINDOW", "IDLE"))
    stage = Stage(sys.argv[1])
    contenders = raise_contenders(stage)
    for contender in contenders:
        # First of all: a heap that has been through a load keeps its size.
        if "log" not in contender.name:
            contender.idle = clients.idle_kib(contender.server, contender.cookies, idle)
            say(f"{contender.name}: {contender.idle:.1f} KiB per idle connection")
    samples = [one_round(stage, contenders, number, window) for number in range(rounds)]
    results = {
        "loads": {load: summary(load, contenders, samples) for load in LOADS},
        "idle": {contender.name: contender.idle for contender in contenders if contender.idle},
        "logged": min(sample["logged"] for sample in samples),
        "rounds": rounds, "window": window, "idle_count": idle, "cores": os.cpu_count(),
    }
    print(report.markdown(results))
    if not os.environ.get("SMOKE"):
        report.write(Path(os.environ["OUT"]), results)


def raise_contenders(stage):
    quiet, logging = stage.nginx()
    builds = {"doorward": os.environ["DOORWARD"]}
    if os.environ["DIST"]:
        builds["doorward with PGO"] = os.environ["DIST"]
    if os.environ["AGAINST"]:
        builds["other build"] = os.environ["AGAINST"]
    gateways = [
        (name + word, binary, log)
        for name, binary in builds.items()
        for word, log in (("", False), (", access log", True))
    ]
    made = []
    for number, (name, binary, log) in enumerate(gateways):
        server = stage.doorward(binary, f"gateway{number}", log)
        cookies = stage.place / f"gateway{number}" / "cookies"
        began = time.monotonic()
        cookies.write_text("\n".join(clients.log_in_all(server.port)) + "\n")
        say(f"{name}: {clients.SESSIONS} logins in {time.monotonic() - began:.0f} s")
        made.append(Contender(name, server, cookies, server.log if log else None))
    # nginx is asked with the same bytes; it does not look at them.
    some = made[0].cookies
    return [Contender(BASE, quiet, some), Contender("nginx, access log", logging, some), *made]


def one_round(stage, contenders, number, window):
    # Each round begins elsewhere, so that nobody always runs on a machine that the others warmed.
    order = contenders[number % len(contenders):] + contenders[: number % len(contenders)]
    sample = {}
    for load, run in LOADS.items():
        for contender in order:
            if contender.log:
                contender.take_log_lines()
            result = run(contender.server, stage.upstream, contender.cookies, window)
            if contender.log:
                # It may drop lines rather than hold up requests, and one that did would be cheap.
                time.sleep(1)
                share = contender.take_log_lines() / result["sent"]
                sample["logged"] = min(share, sample.get("logged", 1))
            sample[load, contender.name] = result
            say(f"round {number + 1}, {load}, {contender.name}: "
                f"{result['cpu']:.2f} CPU s per 100k, {result['rate']:.0f}/s")
    return sample


def summary(load, contenders, samples):
    """Medians, and medians of the ratios to nginx inside a round."""
    out = {}
    for contender in contenders:
        own = [sample[load, contender.name] for sample in samples]
        base = [sample[load, BASE] for sample in samples]
        row = {}
        for figure in own[0].keys() - {"sent"}:
            ratios = [mine[figure] / theirs[figure] for mine, theirs in zip(own, base)]
            row[figure] = statistics.median(mine[figure] for mine in own)
            row[figure + " ratio"] = statistics.median(ratios)
            row[figure + " spread"] = (min(ratios), max(ratios))
        out[contender.name] = row
    return out


def say(text):
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    main()
