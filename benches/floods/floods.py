"""Measures the effect of floods on well-behaved clients of the gateway.

Each round starts a gateway, runs one flood and measures: p99 latency before and during the flood, failed requests,
recovery time, memory, CPU time, and the limits that were reached. `--nginx` measures plain nginx instead.

Flood and gateway share one machine. The figures have to show the delay inside the gateway, without the competition
for CPU time. Gateway workers, users and their app therefore have real-time priority (SCHED_RR, if permitted). The
baseline is measured while idle-priority loops keep all CPUs busy.

On a virtual machine, other guests steal CPU time for milliseconds, and an idle CPU wakes up late. The loops
therefore run during the flood as well. A round is repeated if the steal time was high. Only steal time selects the
rounds that count; the result is their median.
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
from gateway_process import Gateway, Route, start_gateway

HERE = pathlib.Path(__file__).parent
HOST = "localhost"
IDLE_SECONDS = 2
BASE_SECONDS = 8
FLOOD_SECONDS = 10
AFTER_SECONDS = 3
ROUNDS = 5
# Users connect at the same time. The measurement begins after this burst.
SETTLE_SECONDS = 1
# Highest share of CPU time that other guests may steal in a round.
MAX_STEAL = 0.01
# Longest wait for a time with little steal, and the number of additional rounds.
QUIET_SECONDS = 60
EXTRA_ROUNDS = 5
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
    "forged-cookies": "requests with forged cookies",
    "one-network": "2,000 connections from one network",
}


@dataclasses.dataclass
class Round:
    """Results of one round. Latencies are in milliseconds, `recovery` is in seconds, `cpu` is in cores."""

    name: str
    idle_p99: float
    base_p99: float
    flood_p99: float
    requests: int
    failed: int
    recovery: float | None
    memory_mib: float
    cpu: float
    steal: float
    flood_counts: dict
    limits: dict

    @property
    def ratio(self) -> float:
        return self.flood_p99 / self.base_p99


class MemorySampler(threading.Thread):
    """Records the maximum resident memory of some processes, in bytes."""

    def __init__(self, pids: list[int]):
        super().__init__(daemon=True)
        self.pids, self.max_bytes, self.stopped = pids, 0, threading.Event()

    def run(self) -> None:
        while not self.stopped.wait(0.1):
            with contextlib.suppress(OSError, IndexError):
                pages = [pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1] for pid in self.pids]
                self.max_bytes = max(self.max_bytes, sum(map(int, pages)) * 4096)


def cpu_seconds(pids: list[int]) -> float:
    stats = [pathlib.Path(f"/proc/{pid}/stat").read_text() for pid in pids]
    fields = [stat.rsplit(")", 1)[1].split() for stat in stats]
    return sum(int(field[11]) + int(field[12]) for field in fields) / os.sysconf("SC_CLK_TCK")


class StealTimer:
    """Measures the share of CPU time that other guests of the host stole since the timer was created."""

    def __init__(self):
        self.start = StealTimer.ticks()

    @staticmethod
    def ticks() -> list[int]:
        return [int(word) for word in pathlib.Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]

    def share(self) -> float:
        ticks = [now - then for then, now in zip(self.start, StealTimer.ticks())]
        return ticks[7] / max(1, sum(ticks))


def wait_for_low_steal() -> None:
    """Waits until steal time is low. Busy loops are needed, because the kernel counts no steal on an idle CPU."""
    deadline = time.monotonic() + QUIET_SECONDS
    while time.monotonic() < deadline:
        timer = StealTimer()
        with busy_cpus():
            time.sleep(2)
        if timer.share() <= MAX_STEAL:
            return


def start_script(name: str, *args: object, **options) -> subprocess.Popen:
    argv = [sys.executable, str(HERE / name), *map(str, args)]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, **options)


def set_realtime(tid: int) -> None:
    """Gives a thread real-time priority. Its child processes do not inherit it."""
    with contextlib.suppress(PermissionError, ProcessLookupError):
        os.sched_setscheduler(tid, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))


def set_realtime_workers(pids: list[int]) -> None:
    """Gives real-time priority to the threads that carry requests. Background threads keep theirs."""
    for pid in pids:
        for thread in pathlib.Path(f"/proc/{pid}/task").iterdir():
            if (thread / "comm").read_text().startswith(("worker", "nginx")):
                set_realtime(int(thread.name))


def start_realtime(name: str, *args: object, **options) -> subprocess.Popen:
    """Starts a script that never waits for a CPU, as on a machine of its own: users and their app."""
    process = start_script(name, *args, **options)
    set_realtime(process.pid)
    return process


def start_low_priority(name: str, *args: object) -> subprocess.Popen:
    """Starts a script that uses the CPU time that the gateway, the users and their app leave."""
    process = start_script(name, *args)
    os.setpriority(os.PRIO_PROCESS, process.pid, 15)
    return process


@contextlib.contextmanager
def busy_cpus():
    """Keeps every CPU busy with a loop of idle priority."""
    loop = (
        "import os, signal\n"
        "signal.alarm(60)\n"
        "os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))\n"
        "while True: pass"
    )
    with contextlib.ExitStack() as stack:
        for _ in range(os.cpu_count() or 1):
            stack.enter_context(killed(subprocess.Popen([sys.executable, "-c", loop])))
        yield


@contextlib.contextmanager
def killed(process: subprocess.Popen):
    """Kills the process at the end of the block."""
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def percentile(values: list[float], part: float) -> float:
    return sorted(values)[int(len(values) * part)] if values else float("nan")


def gateway_pids(gateway: Gateway) -> list[int]:
    """Returns the process that runs with the configuration of this gateway."""
    if isinstance(gateway, nginx.NginxProxy):
        return gateway.pids
    for entry in pathlib.Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            argv = (entry / "cmdline").read_bytes().split(b"\0")
            if str(gateway.home / "doorward.toml").encode() in argv:
                return [int(entry.name)]
    raise RuntimeError("the gateway process was not found")


def limit_hits(gateway: Gateway) -> dict[str, int]:
    """Reads from the metrics how often each limit was reached."""
    if isinstance(gateway, nginx.NginxProxy):
        return {}
    log = (gateway.home / "log").read_text()
    port = re.search(r'"scheme":"admin","address":"127.0.0.1:(\d+)"', log).group(1)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as response:
        text = response.read().decode()
    found = re.findall(r'doorward_limit_hits_total\{limit="([^"]+)"\} (\d+)', text)
    return {limit: int(count) for limit, count in found}


def start_app(stack: contextlib.ExitStack, start=start_realtime) -> str:
    home = stack.enter_context(tempfile.TemporaryDirectory(prefix="floods-"))
    upstream = stack.enter_context(killed(start("upstream.py", home)))
    return f"http://127.0.0.1:{upstream.stdout.readline().strip()}"


def run_round(name: str, idle: float, base: float, flood: float, after: float, size=1.0, start=start_gateway) -> Round:
    """Runs one flood against a new gateway. The durations are in seconds, `size` is a share of the full flood."""
    with contextlib.ExitStack() as stack:
        access = "session" if name in ("forged-cookies", "logins") else "public"
        # The long response comes from an app with low priority, because the gateway is measured and not the app.
        routes = [
            Route(HOST, start_app(stack), access),
            Route(f"big.{HOST}", start_app(stack, start_low_priority), "public"),
        ]
        gateway = stack.enter_context(start(routes, LIMITS))
        pids = gateway_pids(gateway)
        set_realtime_workers(pids)
        sampler = MemorySampler(pids)
        sampler.start()
        args = (gateway.port, gateway.home / "certs/ca.pem", gateway.log_in(HOST))
        users = stack.enter_context(killed(start_realtime("users.py", *args, stdin=subprocess.PIPE)))
        users.stdout.readline()
        time.sleep(SETTLE_SECONDS + idle)
        base_start, steal = time.monotonic(), StealTimer()
        with busy_cpus():
            time.sleep(base)
        flood_start, cpu = time.monotonic(), cpu_seconds(pids)
        with busy_cpus():
            attack = stack.enter_context(killed(start_low_priority("attack.py", name, gateway.port, flood, size)))
            flood_counts, _ = attack.communicate(timeout=flood + 60)
        flood_end, steal_share = time.monotonic(), steal.share()
        cpu = (cpu_seconds(pids) - cpu) / (flood_end - flood_start)
        time.sleep(after)
        lines, _ = users.communicate("")
        sampler.stopped.set()
        responses = [tuple(map(float, line.split())) for line in lines.splitlines()]
        idle_latencies = latencies(responses, base_start - idle, base_start)
        base_latencies = latencies(responses, base_start, flood_start)
        statuses = [status for at, _, status in responses if flood_start <= at < flood_end]
        return Round(
            name=name,
            idle_p99=percentile(idle_latencies, 0.99),
            base_p99=percentile(base_latencies, 0.99),
            flood_p99=percentile(latencies(responses, flood_start, flood_end), 0.99),
            requests=len(statuses),
            failed=sum(status != 200 for status in statuses),
            recovery=recovery(responses, flood_end, percentile(idle_latencies, 0.99)),
            memory_mib=sampler.max_bytes / (1 << 20),
            cpu=cpu,
            steal=steal_share,
            flood_counts=json.loads(flood_counts),
            limits=limit_hits(gateway),
        )


def latencies(responses: list[tuple], start: float, end: float) -> list[float]:
    return [latency for at, latency, _ in responses if start <= at < end]


def run_rounds(name: str, start) -> list[Round]:
    """Runs rounds until enough of them have little steal time. Returns those with the least."""
    rounds = []
    for number in range(ROUNDS + EXTRA_ROUNDS):
        if number >= ROUNDS and sorted(result.steal for result in rounds)[ROUNDS - 1] <= MAX_STEAL:
            break
        wait_for_low_steal()
        result = run_round(name, IDLE_SECONDS, BASE_SECONDS, FLOOD_SECONDS, AFTER_SECONDS, start=start)
        rounds.append(result)
        p99 = f"p99 {result.idle_p99:.1f}, {result.base_p99:.1f}, {result.flood_p99:.1f} ms"
        print(f"{name}: {p99}; ratio {result.ratio:.1f}; steal {result.steal:.1%}", file=sys.stderr, flush=True)
    return sorted(rounds, key=lambda result: result.steal)[:ROUNDS]


def recovery(responses: list[tuple], flood_end: float, idle_p99: float) -> float | None:
    """Returns the seconds after the flood until one second has no failure and a p95 of at most twice `idle_p99`."""
    for start in range(60):
        second = [one for one in responses if flood_end + start <= one[0] < flood_end + start + 1]
        if len(second) < 50:
            return None
        if all(status == 200 for _, _, status in second) and (
            percentile([latency for _, latency, _ in second], 0.95) <= 2 * idle_p99
        ):
            return float(start)
    return None


def row(rounds: list[Round]) -> str:
    def median(value) -> float:
        return statistics.median(map(value, rounds))

    connections = median(lambda result: result.flood_counts.get("connections", 0))
    frames = median(lambda result: result.flood_counts.get("frames", 0))
    volume = f"{connections:,.0f} connections" + (f", {frames:,.0f} frames" if frames else "")
    ratios = [result.ratio for result in rounds]
    ratio = f"{statistics.median(ratios):.1f}" + (f" ({min(ratios):.1f}-{max(ratios):.1f})" if rounds[1:] else "")
    recoveries = [result.recovery for result in rounds]
    recovered = "not observed" if None in recoveries else f"{max(recoveries):.0f} s"
    p99 = [median(operator.attrgetter(name)) for name in ("idle_p99", "base_p99", "flood_p99")]
    return (
        f"| {NAMES[rounds[0].name]} | {volume} | {' | '.join(f'{value:.1f}' for value in p99)} | {ratio} "
        f"| {sum(result.failed for result in rounds)} of {sum(result.requests for result in rounds):,} | {recovered} "
        f"| {max(result.memory_mib for result in rounds):.0f} | {median(lambda result: result.cpu):.2f} "
        f"| {max(result.steal for result in rounds):.1%} | {mean_limit_hits(rounds)} |"
    )


def mean_limit_hits(rounds: list[Round]) -> str:
    hits = Counter()
    for result in rounds:
        hits.update(result.limits)
    means = {limit: count / len(rounds) for limit, count in hits.items()}
    return ", ".join(f"{limit} {f'{mean:,.0f}' if mean >= 1 else '<1'}" for limit, mean in means.items()) or "none"


HEAD = (
    "| flood | volume | p99 idle CPU, ms | p99 base, ms | p99 during, ms | ratio | failed "
    "| recovery | memory, MiB | cores | steal | limits reached |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
)


def smoke() -> None:
    for name in SMOKE:
        result = run_round(name, 1, 1, 2, 1, size=0.1)
        print(HEAD.split("\n")[0] + "\n" + row([result]), flush=True)
        if result.failed or not result.requests:
            sys.exit(f"{name}: {result.failed} of {result.requests} well-behaved requests failed")


def write(rows: list[str], proxy: str) -> None:
    load = pathlib.Path("/proc/loadavg").read_text().split()[0]
    document = HERE.parent.parent / "docs/limits.md"
    begin, end = f"<!-- floods: {proxy} -->", "<!-- end -->"
    text = document.read_text()
    table = "\n".join([begin, "", HEAD, *rows, "", end])
    before, rest = text.split(begin, 1)
    document.write_text(before + table + rest.split(end, 1)[1])
    print(f"wrote {document}; the load is {load}")


def main() -> None:
    args = sys.argv[1:]
    if args == ["--smoke"]:
        return smoke()
    with_nginx = args[:1] == ["--nginx"]
    start, names = (nginx.start_nginx, args[1:]) if with_nginx else (start_gateway, args)
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        sys.exit(f"{unknown[0]} is not a flood; valid arguments: --smoke, --nginx, {', '.join(NAMES)}")
    print(HEAD, flush=True)
    rows = []
    for name in names or (nginx.NAMES if with_nginx else NAMES):
        rows.append(row(run_rounds(name, start)))
        print(rows[-1], flush=True)
    if not names:
        write(rows, "nginx" if with_nginx else "doorward")


if __name__ == "__main__":
    main()
