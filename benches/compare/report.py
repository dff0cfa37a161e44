"""Writes docs/performance.md and its plot from the results of a comparison."""

import datetime
from pathlib import Path

BASE = "nginx"

TEXT = """# Performance

`benches/compare/run` compares doorward with plain nginx on one machine, at the same time. nginx is a TLS proxy without
authentication. A CPU or latency figure below 1 is better than nginx; a throughput figure above 1 is better.

![CPU per request, relative to nginx](performance.svg)

## HTTP/1.1

64 keep-alive connections, 1,000 sessions in turn.

| | CPU per request | throughput | p50 | p99 |
| --- | --- | --- | --- | --- |
{http1}

## HTTP/2

16 connections with 4 streams each, one session.

| | CPU per request | throughput |
| --- | --- | --- |
{http2}

## Memory

| | KiB per idle TLS connection ({idle_count}) |
| --- | --- |
{idle}

## Method

- TLS 1.3, ECDSA P-256. Load generator, gateway and upstream share one machine with {cores} cores. Throughput and
  latency therefore differ less than on separate machines. **CPU is the reliable figure**: user and system time of
  the gateway, divided by the requests that the upstream counted.
- {rounds} rounds with windows of {window} s, each contender once per round, in rotating order. A figure is the median
  of the ratios within a round, with minimum and maximum. {caution}
- The upstream is nginx with a response of 1 KiB from memory, over keep-alive HTTP/1.1. nginx forwards the cookie;
  doorward validates and removes it.
- doorward uses its defaults: embedded store, every request authorized, activity written, identity headers set. Only
  rotation is postponed (`rotate_after = "6h"`), because load generators do not store cookies.
- The sessions come from 1,000 logins of 100 users before the measurement.
- The access log is JSON in a file; nginx writes `combined`. {logged}
- For scale: nginx used {base_cpu:.2f} CPU seconds for 100,000 HTTP/1.1 requests, with a median latency of
  {base_p50:.2f} ms at {base_rate:,.0f} requests per second.
- Not measured: Redis, full handshakes, large bodies, uploads, WebSockets, several machines.
{pgo}- On a noisy machine, count instructions instead. `tests/system/instructions.rs` counts them with valgrind, and
  `tests/run` compares the counts with `tests/system/instructions.tsv`.
"""


def write(folder, results):
    folder = Path(folder)
    folder.mkdir(exist_ok=True)
    (folder / "performance.md").write_text(markdown(results))
    (folder / "performance.svg").write_text(plot(results))


def markdown(results):
    http1, http2 = results["loads"]["HTTP/1.1"], results["loads"]["HTTP/2"]
    base = http1[BASE]
    return TEXT.format(
        http1=rows(http1, ["cpu", "rate", "p50", "p99"]),
        http2=rows(http2, ["cpu", "rate"]),
        idle="\n".join(f"| {name} | {kib:.0f} |" for name, kib in results["idle"].items()),
        idle_count=f"{results['idle_count']:,}",
        cores=results["cores"], rounds=results["rounds"], window=results["window"],
        caution=caution(http1), logged=log_entries(results["logged"]), pgo=pgo(http1),
        base_cpu=base["cpu"], base_p50=base["p50"], base_rate=base["rate"],
    )


def pgo(load):
    """Returns a note about the second build if it was measured."""
    if not any("PGO" in name for name in load):
        return ""
    return (
        "- `doorward` is the plain release build. `doorward with PGO` has profile-guided optimisation.\n"
        "  `benches/pgo/run` builds it.\n"
    )


def rows(load, figures):
    lines = []
    for name, row in load.items():
        cells = ["1" if name == BASE else ratio(row, figure) for figure in figures]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def ratio(row, figure):
    low, high = row[figure + " spread"]
    return f"**{row[figure + ' ratio']:.2f}** ({low:.2f}–{high:.2f})"


def caution(load):
    """Returns a sentence with the largest deviation of a round from its median."""
    deviation = 0
    for row in load.values():
        low, high = row["cpu spread"]
        median = row["cpu ratio"]
        deviation = max(deviation, (high - median) / median, (median - low) / median)
    return f"The CPU of every round is within {deviation:.0%} of its median."


def log_entries(share):
    if share >= 0.9999:
        return "No entry was lost."
    return f"At most {1 - share:.1%} of the entries of a window were dropped."


PLOT = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 {height}" role="img" aria-labelledby="t d">
  <title id="t">CPU per request, relative to nginx</title>
  <desc id="d">{description}</desc>
  <style>
    text {{ font: 15px system-ui, sans-serif; fill: #1b2430; }}
    .head {{ font-weight: 600; font-size: 17px; }}
    .quiet {{ fill: #55606e; font-size: 13px; }}
    .other {{ fill: #8893a1; }} .ours {{ fill: #1d5fa8; }}
    .line {{ stroke: #8893a1; stroke-width: 1.5; stroke-dasharray: 3 4; }}
    .span {{ stroke: #1b2430; stroke-width: 1.5; }}
    .paper {{ fill: #ffffff; }}
    @media (prefers-color-scheme: dark) {{
      text {{ fill: #e6eaf0; }} .quiet {{ fill: #a3adba; }} .paper {{ fill: #10161d; }}
      .other {{ fill: #6c7886; }} .ours {{ fill: #6aa9ee; }} .line {{ stroke: #6c7886; }}
      .span {{ stroke: #e6eaf0; }}
    }}
  </style>
  <rect class="paper" width="760" height="{height}" rx="8"/>
  <text class="head" x="24" y="34">CPU per request, relative to nginx without authentication</text>
  <text class="quiet" x="24" y="55">Lower is better. Bars: median. Lines: minimum and maximum. {date}</text>
{bars}
</svg>
"""

LEFT, WIDTH, BAR, STEP = 230, 440, 22, 34


def plot(results):
    loads = results["loads"]
    maximum = max(row["cpu spread"][1] for load in loads.values() for row in load.values())
    scale = WIDTH / max(maximum, 1)
    parts, summary, y = [], [], 92
    for load, contenders in loads.items():
        parts.append(f'  <text class="head" x="24" y="{y}">{load}</text>')
        y += 12
        top = y
        for name, row in contenders.items():
            parts.extend(bar(name, row, y, scale))
            summary.append(f"{load}, {name}: {row['cpu ratio']:.2f}.")
            y += STEP
        one = LEFT + scale
        parts.append(f'  <line class="line" x1="{one:.0f}" y1="{top - 4}" x2="{one:.0f}" y2="{y - 6}"/>')
        y += 30
    return PLOT.format(
        height=y - 14, description=" ".join(summary), bars="\n".join(parts),
        date=datetime.date.today().isoformat(),
    )


def bar(name, row, y, scale):
    kind = "other" if name.startswith("nginx") else "ours"
    middle = y + BAR / 2
    end = LEFT + row["cpu ratio"] * scale
    low, high = (LEFT + value * scale for value in row["cpu spread"])
    yield f'  <text x="{LEFT - 12}" y="{middle + 5:.0f}" text-anchor="end">{name}</text>'
    yield f'  <rect class="{kind}" x="{LEFT}" y="{y}" width="{end - LEFT:.0f}" height="{BAR}" rx="3"/>'
    if high - low > 1:
        yield f'  <line class="span" x1="{low:.0f}" y1="{middle:.0f}" x2="{high:.0f}" y2="{middle:.0f}"/>'
    yield f'  <text x="{max(end, high) + 8:.0f}" y="{middle + 5:.0f}">{row["cpu ratio"]:.2f}</text>'
