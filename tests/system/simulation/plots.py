"""Draws the plots of docs/simulation.md from the figures of tests/system/simulation/run.

    python3 tests/system/simulation/plots.py target/simulation.jsonl docs
"""

import json
import math
import sys
from pathlib import Path

PAGE = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 {height}" role="img" aria-labelledby="t d">
  <title id="t">{title}</title>
  <desc id="d">{description}</desc>
  <style>
    text {{ font: 15px system-ui, sans-serif; fill: #1b2430; }}
    .head {{ font-weight: 600; font-size: 17px; }} .quiet {{ fill: #55606e; font-size: 13px; }}
    .grid {{ stroke: #d5dae1; }} .limit {{ stroke: #b3261e; stroke-width: 1.5; stroke-dasharray: 3 4; }}
    .a {{ fill: #1d5fa8; }} .b {{ fill: #d98c21; }} .c {{ fill: #7a4fa3; }} .d {{ fill: #8893a1; }}
    polyline {{ fill: none; stroke-width: 2.5; }}
    polyline.a {{ fill: none; stroke: #1d5fa8; }} polyline.b {{ fill: none; stroke: #d98c21; }}
    polyline.c {{ fill: none; stroke: #7a4fa3; }} polyline.d {{ fill: none; stroke: #8893a1; }}
    .paper {{ fill: #ffffff; }}
    @media (prefers-color-scheme: dark) {{
      text {{ fill: #e6eaf0; }} .quiet {{ fill: #a3adba; }} .paper {{ fill: #10161d; }}
      .grid {{ stroke: #2c3642; }} .limit {{ stroke: #f2857c; }}
      .a {{ fill: #6aa9ee; }} .b {{ fill: #f0b35c; }} .c {{ fill: #b48ee0; }} .d {{ fill: #6c7886; }}
      polyline.a {{ stroke: #6aa9ee; }} polyline.b {{ stroke: #f0b35c; }}
      polyline.c {{ stroke: #b48ee0; }} polyline.d {{ stroke: #6c7886; }}
    }}
  </style>
  <rect class="paper" width="760" height="{height}" rx="8"/>
  <text class="head" x="24" y="34">{title}</text>
  <text class="quiet" x="24" y="55">{note}</text>
{body}
</svg>
"""


def page(title, note, height, body, description):
    return PAGE.format(title=title, note=note, height=height, body="\n".join(body), description=description)


def text(x, y, label, anchor="start", kind=""):
    return f'  <text class="{kind}" x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}">{label}</text>'


def line(x1, y1, x2, y2, kind="grid"):
    return f'  <line class="{kind}" x1="{x1:.0f}" y1="{y1:.0f}" x2="{x2:.0f}" y2="{y2:.0f}"/>'


# False logins by cause.

CAUSES = [("after-crash", "a", "browser crash"), ("theft", "b", "false theft verdict"),
          ("signals", "c", "signals")]
LASTING = {"Workday": "12 h sessions", "Month": "30 d sessions"}


def cause(name):
    return name if name in ("after-crash", "theft") else "signals"


def false_logins(figures):
    every = [row for row in figures if row["figure"] == "honest"]
    rows = [row for row in every if row["false_each_thousand"] <= 10]
    maximum = max(1.0, *(row["false_each_thousand"] for row in rows)) * 1.05
    left, width, y = 190, 480, 112
    body, output = [], []
    for number, (_, kind, label) in enumerate(CAUSES):
        body.append(f'  <rect class="{kind}" x="{190 + number * 180}" y="70" width="14" height="14" rx="2"/>')
        body.append(text(210 + number * 180, 82, label, kind="quiet"))
    for lasting, label in LASTING.items():
        body.append(text(24, y, label, kind="head"))
        y += 14
        for row in (row for row in rows if row["lasting"] == lasting):
            body.append(text(left - 12, y + 16, row["policy"], "end"))
            x = left
            for name, kind, _ in CAUSES:
                count = sum(n for reason, n in row["false"].items() if cause(reason) == name)
                bar_width = count * 1000 / row["days"] / maximum * width
                body.append(f'  <rect class="{kind}" x="{x:.1f}" y="{y}" width="{bar_width:.1f}" height="22"/>')
                x += bar_width
            rate = row["false_each_thousand"]
            # Never on the line of the target.
            body.append(text(max(x, left + width / maximum) + 8, y + 16, f"{rate:.2f}"))
            output.append(f"{label}, {row['policy']}: {rate:.2f}.")
            y += 30
        y += 26
    target = left + width / maximum
    body.insert(0, line(target, 96, target, y - 34, "limit"))
    body.append(text(target, y - 18, "target: below 1", "middle", "quiet"))
    days = rows[0]["days"]
    omitted = sorted({row["policy"] for row in every} - {row["policy"] for row in rows})
    note = f"Per 1,000 user-days, by cause. {days:,} user-days per row. Not drawn: {', '.join(omitted)}."
    return page("False logins of honest users", note, y + 4, body, " ".join(output))


# Cost and effect of each threshold.

KINDS = {("Abroad", "OtherBrowser"): ("abroad, another browser", "a"),
         ("Country", "Disguised"): ("same country, copied user agent", "c"),
         ("Country", "Same"): ("same country, same browser", "b")}


def threshold(figures):
    false = {row["login_at"]: row["honest"]["false_each_thousand"]
             for row in figures if row["figure"] == "threshold"}
    stopped = {}
    for row in figures:
        if row["figure"] == "stopped":
            stopped.setdefault((row["location"], row["software"]), {})[row["login_at"]] = row["share"]
    at = sorted(false)
    top, low, left, right = 100, 340, 70, 640
    x = lambda value: left + (value - at[0]) / (at[-1] - at[0]) * (right - left)
    height = lambda rate: low - (math.log10(max(rate, 0.1)) + 1) / 5 * (low - top)
    body, output = [], []
    for power in range(6):
        y = height(10 ** (power - 1))
        body += [line(left, y, right, y), text(left - 8, y + 5, f"{10 ** (power - 1):,g}", "end", "quiet"),
                 text(right + 8, y + 5, f"{power * 20} %", "start", "quiet")]
    for value in at:
        if value not in (15, 40, 55, 65):
            body.append(text(x(value), low + 20, value, "middle", "quiet"))
    points = " ".join(f"{x(v):.1f},{height(false[v]):.1f}" for v in at)
    body.append(f'  <polyline class="d" points="{points}" stroke-dasharray="6 4"/>')
    for (key, (label, kind)) in KINDS.items():
        share = stopped[key]
        points = " ".join(f"{x(v):.1f},{low - share[v] * (low - top):.1f}" for v in at)
        body.append(f'  <polyline class="{kind}" points="{points}"/>')
        output.append(f"{label}: " + ", ".join(f"{v}: {share[v]:.0%}" for v in at) + ".")
    body += [line(x(60), top - 10, x(60), low, "limit"), text(x(60), top - 16, "default: 60", "middle", "quiet")]
    legend = [("d", "false logins per 1,000 days (left, logarithmic)")]
    legend += [(kind, f"attackers without access: {label} (right)") for label, kind in KINDS.values()]
    for number, (kind, label) in enumerate(legend):
        y = low + 52 + number * 22
        body += [f'  <rect class="{kind}" x="70" y="{y - 12}" width="14" height="14" rx="2"/>', text(92, y, label)]
    output.append("False logins: " + ", ".join(f"{v}: {false[v]:.2f}" for v in at) + ".")
    note = "Score that requires a login (login_at)."
    return page("Cost and effect of each threshold", note, low + 146, body, " ".join(output))


# How long an attacker in the user's network with the same browser has access.

BEHAVIOURS = {"FollowsRotation": "follows rotations", "KeepsToken": "ignores rotations",
           "InStepWithOwner": "follows the owner"}
MOMENTS = {"Immediately": "immediately", "HoursLater": "hours later", "DaysLater": "days later",
           "WhileVictimSleeps": "owner asleep"}
TIMES = [(1, "1 s"), (60, "1 min"), (600, "10 min"), (3600, "1 h"), (12 * 3600, "12 h")]


def access_time(figures):
    rows = [row for row in figures if row["figure"] == "attacker" and row["table"] == "token_use"
            and row["lasting"] == "Workday"]
    left, width, y = 250, 470, 104
    x = lambda seconds: left + math.log10(max(seconds, 1)) / math.log10(16 * 3600) * width
    body, output, top = [], [], y - 14
    for token_use, label in BEHAVIOURS.items():
        body.append(text(24, y, label, kind="head"))
        y += 12
        for moment, when in MOMENTS.items():
            row = next((r for r in rows if (r["token_use"], r["moment"]) == (token_use, moment)), None)
            if row is None or row["seconds"][0] is None:
                continue
            median, maximum = row["seconds"]
            if maximum == 0:
                body += [text(left - 12, y + 14, when, "end"), text(left + 8, y + 14, "refused", kind="quiet")]
                output.append(f"{label}, {when}: refused.")
                y += 23
                continue
            body += [text(left - 12, y + 14, when, "end"),
                     f'  <rect class="d" x="{left}" y="{y + 1}" width="{x(maximum) - left:.1f}" height="16" rx="2"/>',
                     f'  <rect class="a" x="{left}" y="{y + 1}" width="{x(median) - left:.1f}" height="16" rx="2"/>']
            output.append(f"{label}, {when}: median {median} s, maximum {maximum} s.")
            y += 23
        y += 22
    for seconds, label in TIMES:
        body.insert(0, line(x(seconds), top, x(seconds), y - 18))
        body.append(text(x(seconds), y, label, "middle", "quiet"))
    note = "From the first request to the refusal. Blue: median. Gray: maximum. Signals off, logarithmic."
    title = "Access of an attacker in the user's network with the same browser"
    return page(title, note, y + 18, body, " ".join(output))


def main():
    source, folder = Path(sys.argv[1]), Path(sys.argv[2])
    figures = [json.loads(row) for row in source.read_text().splitlines()]
    plots = {"false-logins": false_logins, "threshold": threshold, "attackers": access_time}
    for name, draw in plots.items():
        try:
            (folder / f"simulation-{name}.svg").write_text(draw(figures))
        except (IndexError, KeyError, ValueError) as missing:
            print(f"simulation-{name}.svg: figures are missing ({missing!r})", file=sys.stderr)


if __name__ == "__main__":
    main()
