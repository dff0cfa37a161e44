"""Writes docs/scale.md and its plot from the figures."""

import datetime
import json
import os
import subprocess
import sys
from pathlib import Path

# Assumptions of the estimate, repeated in the text.
SESSIONS, ACTIVE, EVERY, GATEWAYS = 100_000_000, 0.10, 20, 100
# A shard is one Redis core. Half of it is reserved for peaks and for the fork of a snapshot.
SHARD_GIB, SHARD_CORE = 16, 0.5

TEXT = """# Scale

Measured with `benches/scale/run` on {cores} cores {quiet} (load {load} at the start) and Redis {redis}. Memory and
command counts do not depend on the load. Redis' CPU time is its own figure, accurate to about 15 %.

![Memory per session](scale.svg)

## Memory

Records of {sealed} bytes, sealed (name, address, two groups, browser, one rotation). Each session belongs to another
user, which is the most expensive case, because sessions of one user share an index.

| | sessions | bytes per session |
| --- | --- | --- |
{memory}

The location history of a user (`dw:m:`) is additional. It exists once per user, for 30 days after the last login. It
needs 152 bytes of Redis' memory after a login from one network and browser, and a few thousand bytes at most.

Keys of the same form hold what belongs to [login providers](oidc.md) and [access tokens](tokens.md):

| value | one per | kept until |
| --- | --- | --- |
| ID token and refresh token of a provider | session of a provider | the absolute timeout. It has the size of both tokens, at most 16 KiB |
| sessions in a session of the provider | session of the provider | the absolute timeout of the latest |
| accounts of a shown name | name | the absolute timeout of the latest session, or the last token's expiry |
| used logout token | logout at a provider | 6 minutes |
| access tokens of a user | user with tokens | 366 days after the last change |
| account of a provider with access tokens | such a user | 366 days after the last login or recheck |

## Embedded store

The store is read and verified at startup and kept in memory.

| sessions | startup | memory | file |
| --- | --- | --- | --- |
{embedded}

## Commands

Two gateways, {users} users for {minutes} minutes with default timeouts. All commands to Redis are counted.

| local cache | requests of a user reach | one request per user | commands per request |
| --- | --- | --- | --- |
{commands}

A gateway does not receive the activity that another gateway wrote. It writes its own: at most one touch in 30 s for
each session *and gateway*. A load balancer with session affinity avoids most of these commands.

Each gateway also sends {idle:.1f} commands per second to a single Redis, for its heartbeat and the global cutoff. Each
further primary adds two. A session with a tracked connection is read about twice per second. One million of them need
{live_cost:.1f} Redis cores.

## CPU of Redis

One Redis core, batches of 256 on one connection.

| | µs of Redis |
| --- | --- |
| read | {load_cost:.1f} |
| rotation, no gateway with a cache | {commit_cost:.1f} |
{fanout}

With a cache, every written record causes an invalidation of {bytes:.0f} bytes to each gateway. Touches do not.

## 100 million sessions, {gateways} gateways

An estimate from the figures above. {active:.0%} of the sessions are active, each with one request in {every} seconds:
{requests:,.0f} requests per second, {each_gateway:,.0f} per gateway. A shard is one core and {shard_gib} GiB, half of
it reserved for peaks and snapshots. Replicas, tracked connections, heartbeats and location histories are not included.

| | without the local cache | with the local cache and session affinity |
| --- | --- | --- |
{estimate}

With one request in 20 seconds, half of the requests write a touch, which no cache avoids. With one request in two
seconds, the cache avoids nine tenths of the commands.

A Redis Cluster distributes users by the tag in their keys. To reduce invalidations, run separate installations, for
example one per region.
"""


def read(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines() if line.startswith("{")]


def of(figures, kind):
    return [figure for figure in figures if figure["figure"] == kind]


def number(value):
    return f"{value:,.0f}"


def markdown(figures, load):
    memory, embedded, commands = of(figures, "redis memory"), of(figures, "embedded"), of(figures, "commands")
    fanout = of(figures, "fan-out")
    first = fanout[0]["redis"]
    invalidations = [invalidation_row(row["gateways"], row["redis"]) for row in fanout[1:]]
    requests = SESSIONS * ACTIVE / EVERY
    return TEXT.format(
        cores=os.cpu_count(), load=load,
        quiet="without other load" if float(load) < os.cpu_count() / 2 else "with other load",
        redis=redis_version(),
        sealed=memory[0]["sealed"],
        memory="\n".join(memory_rows(memory, embedded)),
        embedded="\n".join(
            f"| {number(row['sessions'])} | {row['open']:.1f} s | {number(row['resident'])} B each "
            f"| {number(row['file'])} B each |" for row in embedded),
        users=commands[0]["users"], minutes=commands[0]["minutes"],
        commands="\n".join(
            f"| {row['cache']} | {'one gateway' if row['sticky'] else 'both in turn'} | in {row['every']} s "
            f"| {row['each']:.2f} |" for row in commands),
        idle=max(row["idle"] for row in commands),
        live_cost=of(figures, "load")[0]["redis"] * 2,
        load_cost=of(figures, "load")[0]["redis"], commit_cost=first,
        fanout="\n".join(invalidations), bytes=fanout[-1]["bytes"],
        gateways=GATEWAYS, active=ACTIVE, every=EVERY, requests=requests, each_gateway=requests / GATEWAYS,
        shard_gib=SHARD_GIB, estimate="\n".join(estimate(figures)),
    )


def invalidation_row(gateways, cost):
    return f"| rotation, invalidation to {gateways} gateway{'s' if gateways > 1 else ''} | {cost:.1f} |"


def memory_rows(memory, embedded):
    for row in memory:
        count = number(row["sessions"])
        yield f"| Redis, unused | {count} | {number(row['begun'])} |"
        yield f"| Redis, active | {count} | **{number(row['active'])}** |"
        yield f"| Redis, resident | {count} | {number(row['resident'])} |"
    for row in embedded:
        yield f"| embedded, resident | {number(row['sessions'])} | **{number(row['resident'])}** |"


def estimate(figures):
    """Yields the rows of the estimate."""
    requests = SESSIONS * ACTIVE / EVERY
    gib = SESSIONS * of(figures, "redis memory")[-1]["active"] / 2**30
    load_cost, fanout = of(figures, "load")[0]["redis"], of(figures, "fan-out")
    commit, commit_all = fanout[0]["redis"], fanout[-1]["redis"]
    # A token lives ten minutes and causes three writes: offer, confirmation, persistence in the browser.
    commits = SESSIONS * ACTIVE * 3 / 600
    columns = []
    for cache in ("off", "on"):
        key = (cache, cache == "on", EVERY)
        rows = [row for row in of(figures, "commands")
                if (row["cache"], row["sticky"], row["every"]) == key]
        sent = rows[0]["each"] * requests
        loads = max(0, sent - commits - touches())
        cpu = (loads * load_cost + touches() * commit + commits * (commit_all if cache == "on" else commit)) / 1e6
        columns.append((sent, cpu))
    yield line("commands per second", columns, lambda sent, cpu: number(sent))
    yield line("… per gateway", columns, lambda sent, cpu: number(sent / GATEWAYS))
    yield line("Redis cores", columns, lambda sent, cpu: f"{cpu:.1f}")
    yield line("memory", columns, lambda sent, cpu: f"{gib:.0f} GiB")
    yield line("shards for memory", columns, lambda sent, cpu: number(-(-gib // (SHARD_GIB / 2))))
    yield line("shards for commands", columns, lambda sent, cpu: number(-(-cpu // SHARD_CORE)))
    bytes_each = fanout[-1]["bytes"]
    messages = f"{number(commits)} per second, {commits * bytes_each / 1e6:.1f} MB/s"
    yield f"| invalidations to each gateway | none | {messages} |"


def touches():
    """Returns touches per second. A touch is due when the previous one is 30 s old."""
    return SESSIONS * ACTIVE / (-(-30 // EVERY) * EVERY)


def line(name, columns, show):
    cells = [show(*column) for column in columns]
    return f"| {name} | {' | '.join(cells)} |"


def redis_version():
    words = subprocess.run(["redis-server", "--version"], capture_output=True, text=True).stdout.split()
    return next((word[2:] for word in words if word.startswith("v=")), "?")


PLOT = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 {height}" role="img" aria-labelledby="t d">
  <title id="t">Memory per session</title>
  <desc id="d">{description}</desc>
  <style>
    text {{ font: 15px system-ui, sans-serif; fill: #1b2430; }}
    .head {{ font-weight: 600; font-size: 17px; }}
    .quiet {{ fill: #55606e; font-size: 13px; }}
    .bar {{ fill: #1d5fa8; }} .paper {{ fill: #ffffff; }}
    @media (prefers-color-scheme: dark) {{
      text {{ fill: #e6eaf0; }} .quiet {{ fill: #a3adba; }} .paper {{ fill: #10161d; }}
      .bar {{ fill: #6aa9ee; }}
    }}
  </style>
  <rect class="paper" width="760" height="{height}" rx="8"/>
  <text class="head" x="24" y="34">Memory per active session, in bytes</text>
  <text class="quiet" x="24" y="55">Each session has another user. {date}</text>
{bars}
</svg>
"""

LEFT, WIDTH, BAR, STEP = 250, 400, 22, 34


def plot(figures):
    rows = [("Redis", row["sessions"], row["active"]) for row in of(figures, "redis memory")]
    rows += [("embedded", row["sessions"], row["resident"]) for row in of(figures, "embedded")]
    rows += [("embedded, on disk", row["sessions"], row["file"]) for row in of(figures, "embedded")]
    maximum = max(value for _, _, value in rows)
    parts, y = [], 76
    for name, count, value in rows:
        width, middle = WIDTH * value / maximum, y + BAR - 6
        parts.append(f'  <text x="{LEFT - 12}" y="{middle}" text-anchor="end">{name}, {number(count)}</text>')
        parts.append(f'  <rect class="bar" x="{LEFT}" y="{y}" width="{width:.0f}" height="{BAR}" rx="3"/>')
        parts.append(f'  <text x="{LEFT + width + 8:.0f}" y="{middle}">{number(value)}</text>')
        y += STEP
    description = " ".join(f"{name}, {number(count)} sessions: {number(value)} bytes." for name, count, value in rows)
    return PLOT.format(height=y + 10, description=description, bars="\n".join(parts),
                       date=datetime.date.today().isoformat())


def main():
    figures, folder, load = read(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    folder.mkdir(exist_ok=True)
    (folder / "scale.md").write_text(markdown(figures, load))
    (folder / "scale.svg").write_text(plot(figures))


main()
