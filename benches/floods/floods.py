"""Plays each flood against a gateway of its own while well-behaved clients go on, and tells what they
felt: the 99th percentile before and during, answers that failed, how long until all was as before, the
gateway's memory and CPU, and which limits bit.

A flood comes from elsewhere, and here it has to share a machine with what it attacks. So that the waits are
those that it causes at the gateway, and not those for a processor on which it runs itself, the threads that
carry requests, the users and their app go before it (SCHED_RR; without the right to that, they do not), and
the flood gets what they leave. It is compared with a time in which nothing but a process that does nothing keeps
the processors busy. `--nginx` plays the same against plain nginx.

On a virtual machine others take processors away for milliseconds at a time, and one that is idle comes back late:
both are as long as what is measured here. So no processor is idle, in the flood neither; each flood is played in
several rounds, when others take next to nothing, and again where they took more while it went on. Which rounds count
is decided by what was taken alone, and what counts is their median.
"""

import contextlib
import dataclasses
import json
import operator
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter

import nginx
from front import Gateway, Route, gateway

HERE = pathlib.Path(__file__).parent
HOST = "localhost"
CALM_SECONDS = 2
BUSY_SECONDS = 8
FLOOD_SECONDS = 10
AFTER_SECONDS = 3
ROUNDS = 5
# Connecting is a burst of its own.
SETTLE_SECONDS = 1
# The share of the processors' time that others may take, how long to wait for that, and how many rounds more to play.
TAKEN = 0.01
QUIET_SECONDS = 60
MORE_ROUNDS = 5
MEMORY = "1GiB"
LIMITS = f'memory = "{MEMORY}"'
SMOKE = ["slow-heads", "slow-reading", "rapid-reset", "pings"]
NAMES = {
    "slow-heads": "slow heads, 2,000 connections",
    "slow-bodies": "slow bodies, 2,000 connections",
    "slow-reading": "slow reading of a long response, 2,000 connections",
    "rapid-reset": "Rapid Reset (CVE-2023-44487)",
    "made-you-reset": "MadeYouReset (CVE-2025-8671)",
    "continuation": "endless CONTINUATION (CVE-2024-27316)",
    "empty-data": "empty DATA frames (RUSTSEC-2026-0258)",
    "pings": "pings (CVE-2019-9512)",
    "settings": "settings (CVE-2019-9515)",
    "handshakes": "TLS handshakes from many networks",
    "logins": "logins with wrong passwords, many networks",
    "junk-cookies": "requests with forged cookies",
    "one-network": "2,000 connections from one network",
}


@dataclasses.dataclass
class Told:
    """What one round of a flood did."""

    name: str
    calm_p99: float
    busy_p99: float
    flood_p99: float
    asked: int
    failed: int
    recovery: float | None
    memory_mib: float
    cpu: float
    taken: float
    attack: dict
    limits: dict

    @property
    def ratio(self) -> float:
        return self.flood_p99 / self.busy_p99


class Sampler(threading.Thread):
    """The most memory, while it runs."""

    def __init__(self, pids: list[int]):
        super().__init__(daemon=True)
        self.pids, self.most, self.over = pids, 0, threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.1):
            with contextlib.suppress(OSError, IndexError):
                pages = [pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1] for pid in self.pids]
                self.most = max(self.most, sum(map(int, pages)) * 4096)


def cpu_seconds(pids: list[int]) -> float:
    stats = [pathlib.Path(f"/proc/{pid}/stat").read_text() for pid in pids]
    fields = [stat.rsplit(")", 1)[1].split() for stat in stats]
    return sum(int(field[11]) + int(field[12]) for field in fields) / os.sysconf("SC_CLK_TCK")


class Taken:
    """The share of the processors' time that others took on this virtual machine, since it was made."""

    def __init__(self):
        self.began = Taken.ticks()

    @staticmethod
    def ticks() -> list[int]:
        return [int(word) for word in pathlib.Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]

    def share(self) -> float:
        ticks = [now - then for then, now in zip(self.began, Taken.ticks())]
        return ticks[7] / max(1, sum(ticks))


def quiet() -> None:
    """Waits until others take next to nothing. They show only where the processors are wanted."""
    over = time.monotonic() + QUIET_SECONDS
    while time.monotonic() < over:
        taken = Taken()
        with busy_processors():
            time.sleep(2)
        if taken.share() <= TAKEN:
            return


def python(name: str, *args: object, **more) -> subprocess.Popen:
    argv = [sys.executable, str(HERE / name), *map(str, args)]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, **more)


def ahead(tid: int) -> None:
    """Before all that is not so. What it starts is not."""
    with contextlib.suppress(PermissionError, ProcessLookupError):
        os.sched_setscheduler(tid, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))


def workers_ahead(pids: list[int]) -> None:
    """Those threads of the gateway that carry requests; what it does beside them gives way, as always."""
    for pid in pids:
        for thread in pathlib.Path(f"/proc/{pid}/task").iterdir():
            if (thread / "comm").read_text().startswith(("worker", "nginx")):
                ahead(int(thread.name))


def at_once(name: str, *args: object, **more) -> subprocess.Popen:
    """As on another machine that has nothing else to do: users and their app."""
    process = python(name, *args, **more)
    ahead(process.pid)
    return process


def elsewhere(name: str, *args: object) -> subprocess.Popen:
    """As on another machine: it gets what the others leave of this one's processors, all but a little."""
    process = python(name, *args)
    os.setpriority(os.PRIO_PROCESS, process.pid, 15)
    return process


@contextlib.contextmanager
def busy_processors():
    """As busy as a flood keeps them, with nothing."""
    argv = [sys.executable, "-c", "import os, signal; signal.alarm(60); os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))\nwhile True: pass"]
    with contextlib.ExitStack() as stack:
        for _ in range(os.cpu_count() or 1):
            stack.enter_context(ended(subprocess.Popen(argv)))
        yield


@contextlib.contextmanager
def ended(process: subprocess.Popen):
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def percentile(values: list[float], part: float) -> float:
    return sorted(values)[int(len(values) * part)] if values else float("nan")


def gateway_pids(front: Gateway) -> list[int]:
    """The process that runs from this directory's configuration."""
    if isinstance(front, nginx.Front):
        return front.pids
    for entry in pathlib.Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            argv = (entry / "cmdline").read_bytes().split(b"\0")
            if str(front.home / "doorward.toml").encode() in argv:
                return [int(entry.name)]
    raise RuntimeError("the gateway is not there")


def limits_that_bit(front: Gateway) -> dict[str, int]:
    if isinstance(front, nginx.Front):
        return {}
    log = (front.home / "log").read_text()
    port = re.search(r'"scheme":"admin","address":"127.0.0.1:(\d+)"', log).group(1)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as response:
        text = response.read().decode()
    found = re.findall(r'doorward_limit_hits_total\{limit="([^"]+)"\} (\d+)', text)
    return {limit: int(count) for limit, count in found}


def app(stack: contextlib.ExitStack, start=at_once) -> str:
    home = stack.enter_context(tempfile.TemporaryDirectory(prefix="floods-"))
    upstream = stack.enter_context(ended(start("upstream.py", home)))
    return f"http://127.0.0.1:{upstream.stdout.readline().strip()}"


def play(name: str, calm: float, busy: float, flood: float, after: float, share=1.0, front=gateway) -> Told:
    with contextlib.ExitStack() as stack:
        access = "session" if name in ("junk-cookies", "logins") else "public"
        # The app that gives the long answer is another one: it is the gateway that is asked about.
        routes = [Route(HOST, app(stack), access), Route(f"big.{HOST}", app(stack, elsewhere), "public")]
        front = stack.enter_context(front(routes, LIMITS))
        pids = gateway_pids(front)
        workers_ahead(pids)
        sampler = Sampler(pids)
        sampler.start()
        words = (front.port, front.home / "certs/ca.pem", front.log_in(HOST))
        good = stack.enter_context(ended(at_once("good.py", *words, stdin=subprocess.PIPE)))
        good.stdout.readline()
        time.sleep(SETTLE_SECONDS + calm)
        calm_over, taken = time.monotonic(), Taken()
        with busy_processors():
            time.sleep(busy)
        began, cpu = time.monotonic(), cpu_seconds(pids)
        words = (name, front.port, flood, share)
        with busy_processors():
            attack = stack.enter_context(ended(elsewhere("attack.py", *words)))
            told, _ = attack.communicate(timeout=flood + 60)
        over, taken = time.monotonic(), taken.share()
        cpu = (cpu_seconds(pids) - cpu) / (over - began)
        time.sleep(after)
        lines, _ = good.communicate("")
        sampler.over.set()
        responses = [tuple(map(float, line.split())) for line in lines.splitlines()]
        before = [took for at, took, _ in responses if calm_over - calm <= at < calm_over]
        busied = [took for at, took, _ in responses if calm_over <= at < began]
        during = [(took, status) for at, took, status in responses if began <= at < over]
        return Told(
            name=name,
            calm_p99=percentile(before, 0.99),
            busy_p99=percentile(busied, 0.99),
            flood_p99=percentile([took for took, _ in during], 0.99),
            asked=len(during),
            failed=sum(status != 200 for _, status in during),
            recovery=recovery(responses, over, percentile(before, 0.99)),
            memory_mib=sampler.most / (1 << 20),
            cpu=cpu,
            taken=taken,
            attack=json.loads(told),
            limits=limits_that_bit(front),
        )


def played(name: str, front) -> list[Told]:
    """The rounds in which others took the least, some more of them where that was much."""
    rounds = []
    for number in range(ROUNDS + MORE_ROUNDS):
        if number >= ROUNDS and sorted(told.taken for told in rounds)[ROUNDS - 1] <= TAKEN:
            break
        quiet()
        told = play(name, CALM_SECONDS, BUSY_SECONDS, FLOOD_SECONDS, AFTER_SECONDS, front=front)
        rounds.append(told)
        waits = f"{told.calm_p99:.1f}, {told.busy_p99:.1f}, {told.flood_p99:.1f} ms: {told.ratio:.1f} times"
        print(f"{name}: {waits}; others took {told.taken:.1%}", file=sys.stderr, flush=True)
    return sorted(rounds, key=lambda told: told.taken)[:ROUNDS]


def recovery(responses: list[tuple], over: float, calm_p99: float) -> float | None:
    """Seconds after the flood until a whole second was as calm as before, within twice."""
    for start in range(60):
        second = [a for a in responses if over + start <= a[0] < over + start + 1]
        if len(second) < 50:
            return None
        if all(status == 200 for _, _, status in second) and (
            percentile([took for _, took, _ in second], 0.95) <= 2 * calm_p99
        ):
            return float(start)
    return None


def row(rounds: list[Told]) -> str:
    def middle(value) -> float:
        return statistics.median(map(value, rounds))

    tried = middle(lambda told: told.attack.get("tried", 0))
    frames = middle(lambda told: told.attack.get("frames", 0))
    done = f"{tried:,.0f} connections" + (f", {frames:,.0f} frames" if frames else "")
    ratios = [told.ratio for told in rounds]
    times = f"{statistics.median(ratios):.1f}" + (f" ({min(ratios):.1f}-{max(ratios):.1f})" if rounds[1:] else "")
    bits = Counter()
    for told in rounds:
        bits.update(told.limits)
    means = {limit: count / len(rounds) for limit, count in bits.items()}
    bit = ", ".join(f"{limit} {f'{mean:,.0f}' if mean >= 1 else '<1'}" for limit, mean in means.items()) or "none"
    seen = [told.recovery for told in rounds]
    recovered = "not seen" if None in seen else f"{max(seen):.0f} s"
    waits = [middle(operator.attrgetter(name)) for name in ("calm_p99", "busy_p99", "flood_p99")]
    return (
        f"| {NAMES[rounds[0].name]} | {done} | {' | '.join(f'{wait:.1f}' for wait in waits)} | {times} "
        f"| {sum(told.failed for told in rounds)} of {sum(told.asked for told in rounds):,} | {recovered} "
        f"| {max(told.memory_mib for told in rounds):.0f} | {middle(lambda told: told.cpu):.2f} "
        f"| {max(told.taken for told in rounds):.1%} | {bit} |"
    )


HEAD = (
    "| flood | volume | p99 idle CPU, ms | p99 base, ms | p99 during, ms | ratio | failed "
    "| recovery | memory, MiB | cores | steal | limits reached |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
)


def smoke() -> None:
    for name in SMOKE:
        told = play(name, 1, 1, 2, 1, share=0.1)
        print(HEAD.split("\n")[0] + "\n" + row([told]), flush=True)
        if told.failed or not told.asked:
            sys.exit(f"{name}: {told.failed} of {told.asked} well-behaved requests failed")


def write(rows: list[str], front: str) -> None:
    load = pathlib.Path("/proc/loadavg").read_text().split()[0]
    document = HERE.parent.parent / "docs/limits.md"
    begin, end = f"<!-- floods: {front} -->", "<!-- end -->"
    text = document.read_text()
    table = "\n".join([begin, "", HEAD, *rows, "", end])
    before, rest = text.split(begin, 1)
    document.write_text(before + table + rest.split(end, 1)[1])
    print(f"written to {document}; load now {load}")


def main() -> None:
    words = sys.argv[1:]
    if words == ["--smoke"]:
        return smoke()
    beside = words[:1] == ["--nginx"]
    front, words = (nginx.gateway, words[1:]) if beside else (gateway, words)
    unknown = [word for word in words if word not in NAMES]
    if unknown:
        sys.exit(f"{unknown[0]} is not known; known are --smoke, --nginx, {', '.join(NAMES)}")
    print(HEAD, flush=True)
    rows = []
    for name in words or (nginx.NAMES if beside else NAMES):
        rows.append(row(played(name, front)))
        print(rows[-1], flush=True)
    if not words:
        write(rows, "nginx" if beside else "doorward")


if __name__ == "__main__":
    main()
