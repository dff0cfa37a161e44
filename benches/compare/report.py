"""What a comparison says: docs/performance.md and the plot beside it."""

import datetime
from pathlib import Path

BASE = "nginx"

TEXT = """# Performance

{date}, `benches/compare/run`. Figures are relative to plain nginx on the same machine in the same minutes,
where nginx is a TLS proxy without authentication and without a log. Below 1 is cheaper or faster for CPU
and waits; above 1 is more for throughput.

![CPU for each request, relative to nginx](performance.svg)

## HTTP/1.1

64 kept-alive connections, 1,000 sessions in turn.

| | CPU for each request | throughput | p50 | p99 |
| --- | --- | --- | --- | --- |
{http1}

## HTTP/2

16 connections with 4 streams each, one session.

| | CPU for each request | throughput |
| --- | --- | --- |
{http2}

## Memory

| | KiB for each idle TLS connection ({idle_count}) |
| --- | --- |
{idle}

## What was measured, and what was not

- TLS 1.3 with an ECDSA P-256 certificate. One machine with {cores} cores for load generator, gateway and
  upstream together. Since they share the cores, differences in throughput and waits look smaller than they
  are; **CPU is the figure that holds**: user and system time of the gateway's processes, by `/proc`, divided
  by the requests that the upstream counted in the same window.
- {rounds} rounds, in each every contender once, in an order that shifts; windows of {window} s that begin
  after the handshakes. A figure is the median of the ratios inside a round, in brackets the least and the
  greatest. {caution}
- The upstream is nginx that answers 1 KiB from memory over kept-alive HTTP/1.1, the same for all. The
  proxies get the same bytes; nginx passes the cookie on, doorward checks it and takes it out.
- doorward runs with its defaults: embedded store, sessions checked at every request, activity written, identity
  headers set. Only renewal is put off (`rotate_after = "6h"`), since load generators take up no cookie.
- The 1,000 sessions are 1,000 logins by the form, ten for each of 100 users. Their passwords were hashed at
  the least cost, to save the minute; logins are not measured.
- The request log is JSON to a file; nginx's is its own `combined`. {logged}
- For scale: nginx took {base_cpu:.2f} CPU seconds for 100,000 requests over HTTP/1.1, with a median wait of
  {base_p50:.2f} ms at {base_rate:,.0f} requests a second.
- Not measured: Redis, full handshakes, large bodies, uploads, WebSockets, more than one machine.
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
        date=datetime.date.today().isoformat(),
        http1=rows(http1, ["cpu", "rate", "p50", "p99"]),
        http2=rows(http2, ["cpu", "rate"]),
        idle="\n".join(f"| {name} | {kib:.0f} |" for name, kib in results["idle"].items()),
        idle_count=f"{results['idle_count']:,}",
        cores=results["cores"], rounds=results["rounds"], window=results["window"],
        caution=caution(http1), logged=logged(results["logged"]),
        base_cpu=base["cpu"], base_p50=base["p50"], base_rate=base["rate"],
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
    """How far a round may lie from the median: what is nearer together than this is the same."""
    apart = 0
    for row in load.values():
        low, high = row["cpu spread"]
        middle = row["cpu ratio"]
        apart = max(apart, (high - middle) / middle, (middle - low) / middle)
    return f"No round's CPU lay further than {apart:.0%} from its median."


def logged(share):
    if share >= 0.9999:
        return "No line was lost."
    return f"Where it could not keep up, lines were dropped: at worst {1 - share:.1%} of a window's."


PLOT = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 {height}" role="img" aria-labelledby="t d">
  <title id="t">CPU for each request, relative to nginx</title>
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
  <text class="head" x="24" y="34">CPU for each request, relative to nginx without authentication</text>
  <text class="quiet" x="24" y="55">Less is better. Bars are medians, lines the least and greatest round. {date}</text>
{bars}
</svg>
"""

LEFT, WIDTH, BAR, STEP = 230, 440, 22, 34


def plot(results):
    loads = results["loads"]
    most = max(row["cpu spread"][1] for load in loads.values() for row in load.values())
    scale = WIDTH / max(most, 1)
    parts, said, y = [], [], 92
    for load, contenders in loads.items():
        parts.append(f'  <text class="head" x="24" y="{y}">{load}</text>')
        y += 12
        top = y
        for name, row in contenders.items():
            parts.extend(bar(name, row, y, scale))
            said.append(f"{load}, {name}: {row['cpu ratio']:.2f}.")
            y += STEP
        one = LEFT + scale
        parts.append(f'  <line class="line" x1="{one:.0f}" y1="{top - 4}" x2="{one:.0f}" y2="{y - 6}"/>')
        y += 30
    return PLOT.format(
        height=y - 14, description=" ".join(said), bars="\n".join(parts),
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
