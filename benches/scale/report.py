"""What the figures say: docs/scale.md and the plot beside it."""

import datetime
import json
import os
import subprocess
import sys
from pathlib import Path

# What the estimate assumes; the text says so.
SESSIONS, ACTIVE, EVERY, GATEWAYS = 100_000_000, 0.10, 20, 100
# A shard is one core of Redis. Half of it is kept for peaks and for the snapshot's fork.
SHARD_GIB, SHARD_CORE = 16, 0.5

TEXT = """# Scale

{date}, `benches/scale/run` on {cores} cores {quiet} (load {load} at the start); Redis {redis}.
Memory and numbers of commands do not depend on that; Redis' CPU is by its own account, good to about ± 15 %.

![Memory for each session](scale.svg)

## Memory

Real records ({sealed} bytes sealed: name, address, two groups, browser, renewed before), each of another user,
which is the dearest case: the user's index is shared by all of his sessions.

| | sessions | bytes for each |
| --- | --- | --- |
{memory}

A user's memo (`dw:m:`) is not in it: one for each user, for 30 days after his last login, however many sessions he
has. After a login from one network with one browser it is 74 bytes and takes 152 of Redis' memory (`MEMORY USAGE`),
and the entry of its expiry; with 16 networks, 8 browsers and 8 notices a few thousand.

## Embedded store

The whole store is read at start, checked, and kept in memory. One process, one file.

| sessions | to open | memory | file |
| --- | --- | --- | --- |
{embedded}

## Commands

Two gateways, {people} people for {minutes} minutes with the default times; everything that a gateway sends to
Redis is counted: look-ups, touches, renewals, and look-ups after renewals.

| local cache | a person's requests come to | one request of each person | commands for each request |
| --- | --- | --- | --- |
{commands}

A gateway is not told of the activity that another one wrote, so it writes its own: at most one touch in 30 s for
each session *and gateway*. A load balancer that keeps a browser at one gateway saves most of that; the figures
without a cache do not depend on it.

Beside that a gateway sends {idle:.1f} commands a second by itself to a single Redis: two for its beat, one for the line
of everybody. The beat goes to each primary: two more for each further one. Not in any figure here: a session with a
live connection (WebSocket, stream, long upload) is looked up in Redis about twice a second, whatever is known of
it. A million of them at a time are two million look-ups a second, {live_cost:.1f} cores of Redis.

## What Redis pays

One core of Redis, writes and look-ups of 256 at a time on one connection.

| | µs of Redis |
| --- | --- |
| a look-up | {load_cost:.1f} |
| a renewal written, nobody listens | {commit_cost:.1f} |
{fanout}

With a cache, each written record is told to every gateway ({bytes:.0f} bytes each); touches are not, they lie
on other keys.

## 100 million sessions, {gateways} gateways

On paper, from the figures above. {active:.0%} of the sessions are in use at a time, each with a request in
{every} seconds: {requests:,.0f} requests a second, {each_gateway:,.0f} for each gateway. Memory is that of an
active session; a shard is one core and {shard_gib} GiB, of which half is left for peaks and snapshots.
Counted are primaries: each replica takes the memory of its primary once more, and a core. Live connections, beats
(two commands a second for each gateway and primary) and users' memos are not counted.

| | without the local cache | with it, and browsers kept at one gateway |
| --- | --- | --- |
{paper}

A request in 20 seconds is seldom: half of them bring a touch, which no cache saves, and the cores of Redis that the
cache spares go into telling the gateways. Where people ask every other second, it spares nine tenths of the commands.

A Redis Cluster spreads users over shards by the tag in the key. Who needs fewer messages runs several
installations: one for each region, each with its own users.
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
    told = [f"| … told to {row['gateways']} gateway{'s' if row['gateways'] > 1 else ''} | {row['redis']:.1f} |" for row in fanout[1:]]
    requests = SESSIONS * ACTIVE / EVERY
    return TEXT.format(
        date=datetime.date.today().isoformat(), cores=os.cpu_count(), load=load,
        quiet="with little else to do" if float(load) < os.cpu_count() / 2 else "that others used too",
        redis=redis_version(),
        sealed=memory[0]["sealed"],
        memory="\n".join(memory_rows(memory, embedded)),
        embedded="\n".join(
            f"| {number(row['sessions'])} | {row['open']:.1f} s | {number(row['resident'])} B each "
            f"| {number(row['file'])} B each |" for row in embedded),
        people=commands[0]["people"], minutes=commands[0]["minutes"],
        commands="\n".join(
            f"| {row['cache']} | {'the same one' if row['sticky'] else 'either in turn'} | in {row['every']} s "
            f"| {row['each']:.2f} |" for row in commands),
        idle=max(row["idle"] for row in commands),
        live_cost=of(figures, "load")[0]["redis"] * 2,
        load_cost=of(figures, "load")[0]["redis"], commit_cost=first,
        fanout="\n".join(told), bytes=fanout[-1]["bytes"],
        gateways=GATEWAYS, active=ACTIVE, every=EVERY, requests=requests, each_gateway=requests / GATEWAYS,
        shard_gib=SHARD_GIB, paper="\n".join(paper(figures)),
    )


def memory_rows(memory, embedded):
    for row in memory:
        count = number(row["sessions"])
        yield f"| Redis, begun | {count} | {number(row['begun'])} |"
        yield f"| Redis, in use (with its last activity) | {count} | **{number(row['active'])}** |"
        yield f"| Redis, resident | {count} | {number(row['resident'])} |"
    for row in embedded:
        yield f"| embedded, resident | {number(row['sessions'])} | **{number(row['resident'])}** |"


def paper(figures):
    """The rows of the estimate."""
    requests = SESSIONS * ACTIVE / EVERY
    gib = SESSIONS * of(figures, "redis memory")[-1]["active"] / 2**30
    load_cost, fanout = of(figures, "load")[0]["redis"], of(figures, "fan-out")
    commit, told = fanout[0]["redis"], fanout[-1]["redis"]
    # A token lives ten minutes: one write for the offer, one when it is shown, one when it is seasoned.
    commits = SESSIONS * ACTIVE * 3 / 600
    columns = []
    for cache in ("off", "on"):
        wanted = (cache, cache == "on", EVERY)
        rows = [row for row in of(figures, "commands")
                if (row["cache"], row["sticky"], row["every"]) == wanted]
        sent = rows[0]["each"] * requests
        loads = max(0, sent - commits - touches())
        cpu = (loads * load_cost + touches() * commit + commits * (told if cache == "on" else commit)) / 1e6
        columns.append((sent, cpu))
    yield line("commands a second", columns, lambda sent, cpu: number(sent))
    yield line("… for each gateway", columns, lambda sent, cpu: number(sent / GATEWAYS))
    yield line("cores of Redis", columns, lambda sent, cpu: f"{cpu:.1f}")
    yield line("memory", columns, lambda sent, cpu: f"{gib:.0f} GiB")
    yield line("shards for the memory", columns, lambda sent, cpu: number(-(-gib // (SHARD_GIB / 2))))
    yield line("shards for the commands", columns, lambda sent, cpu: number(-(-cpu // SHARD_CORE)))
    bytes_each = fanout[-1]["bytes"]
    messages = f"{number(commits)} a second, {commits * bytes_each / 1e6:.1f} MB/s"
    yield f"| changes told to each gateway | none | {messages} |"


def touches():
    """Activity is written when the last one is 30 s old: at every second request of 20 s."""
    return SESSIONS * ACTIVE / (-(-30 // EVERY) * EVERY)


def line(name, columns, show):
    cells = [show(*column) for column in columns]
    return f"| {name} | {' | '.join(cells)} |"


def redis_version():
    words = subprocess.run(["redis-server", "--version"], capture_output=True, text=True).stdout.split()
    return next((word[2:] for word in words if word.startswith("v=")), "?")


PLOT = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 {height}" role="img" aria-labelledby="t d">
  <title id="t">Memory for each session</title>
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
  <text class="head" x="24" y="34">Memory for each session in use, in bytes</text>
  <text class="quiet" x="24" y="55">Each of another user. {date}</text>
{bars}
</svg>
"""

LEFT, WIDTH, BAR, STEP = 250, 400, 22, 34


def plot(figures):
    rows = [("Redis", row["sessions"], row["active"]) for row in of(figures, "redis memory")]
    rows += [("embedded", row["sessions"], row["resident"]) for row in of(figures, "embedded")]
    rows += [("embedded, on disk", row["sessions"], row["file"]) for row in of(figures, "embedded")]
    most = max(value for _, _, value in rows)
    parts, y = [], 76
    for name, count, value in rows:
        width, middle = WIDTH * value / most, y + BAR - 6
        parts.append(f'  <text x="{LEFT - 12}" y="{middle}" text-anchor="end">{name}, {number(count)}</text>')
        parts.append(f'  <rect class="bar" x="{LEFT}" y="{y}" width="{width:.0f}" height="{BAR}" rx="3"/>')
        parts.append(f'  <text x="{LEFT + width + 8:.0f}" y="{middle}">{number(value)}</text>')
        y += STEP
    said = " ".join(f"{name}, {number(count)} sessions: {number(value)} bytes." for name, count, value in rows)
    return PLOT.format(height=y + 10, description=said, bars="\n".join(parts),
                       date=datetime.date.today().isoformat())


def main():
    figures, folder, load = read(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    folder.mkdir(exist_ok=True)
    (folder / "scale.md").write_text(markdown(figures, load))
    (folder / "scale.svg").write_text(plot(figures))


main()
