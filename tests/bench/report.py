# SPDX-License-Identifier: BSD-2-Clause
"""The figures as tables, and whether they reach what they should."""

import statistics

GIB = 1 << 30
MIB = 1 << 20
PLAIN = "QEMU"


def good(runs):
    return [r for r in runs if "failed" not in r]


def median(runs, value):
    """Of value(run) over the runs that have it; None without any."""
    found = [value(r) for r in good(runs)]
    found = [f for f in found if f is not None]
    return statistics.median(found) if found else None


def smallest(runs, who, value):
    """The smallest median of all ways of @who."""
    found = [median(r, value) for name, r in runs.items() if name.startswith(who)]
    return min((f for f in found if f is not None), default=None)


def spread(runs, value, form="{:.1f}"):
    """Median and what it lies between."""
    found = [f for f in (value(r) for r in good(runs)) if f is not None]
    if not found:
        return "–"
    low, high = form.format(min(found)), form.format(max(found))
    return form.format(statistics.median(found)) + (f" ({low}–{high})" if low != high else "")


def ratio(runs, base, value):
    """How many times the first one's."""
    a, b = median(runs, value), median(base, value)
    return f" {a / b:.2f}×" if a is not None and b else ""


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def total_ms(r):
    return r["total"] * 1e3


def cpu(r):
    return r["cpu"]


def cpu_per_gib(r):
    return r["cpu"] * GIB / r["bytes"]


def gap(r):
    return r.get("gap_ms")


COLUMNS = [     # head, value of a run, form, whether the ratio to ferry's says something
    ("total ms", total_ms, "{:.0f}", True),
    ("CPU s", cpu, "{:.2f}", True),
    ("CPU s/GiB", cpu_per_gib, "{:.2f}", False),
    ("vCPU kernel s", lambda r: r.get("vcpu_system"), "{:.2f}", False),
    ("blackout ms", lambda r: r.get("blackout_ms"), "{:.1f}", False),
    ("seen by guest ms", gap, "{:.1f}", True),
    ("without migration ms", lambda r: r.get("gap_before_ms"), "{:.1f}", False),
    ("MiB sent", lambda r: r["bytes"] / MIB, "{:.0f}", False),
    ("rounds", lambda r: r.get("rounds"), "{:.0f}", False),
]


def migration_table(result):
    """A column of which nobody has a figure is left out."""
    base = result["runs"]["ferry"]
    columns = [c for c in COLUMNS if median(base, c[1]) is not None]
    if result["case"] == "ram":
        columns = columns[:3] + [COLUMNS[7]]
    rows = []
    for name, runs in result["runs"].items():
        failed = len(runs) - len(good(runs))
        row = [name + (f" ({failed} of {len(runs)} failed)" if failed else "")]
        for _, value, form, compared in columns:
            row.append(spread(runs, value, form) + (ratio(runs, base, value) if compared else ""))
        rows.append(row)
    return table([""] + [c[0] for c in columns], rows)


def copying_table(results):
    rows = []
    for r in results:
        runs = r["runs"]
        rows.append([r["content"], "copied" if r["how"] == "copy" else "by reference", str(r["iovecs"]),
                     spread(runs, lambda x: x["bytes"] / x["total"] / MIB, "{:.0f}"),
                     spread(runs, cpu_per_gib, "{:.2f}"),
                     spread(runs, lambda x: x["ends"][0]["cpu"] * GIB / x["bytes"], "{:.2f}"),
                     spread(runs, lambda x: x["syscalls"][0] * GIB / x["bytes"], "{:.0f}"),
                     spread(runs, lambda x: x["syscalls"][1] * GIB / x["bytes"], "{:.0f}")])
    return table(["content", "pages", "iovecs", "MiB/s", "CPU s/GiB", "… sender's", "sender's calls/GiB",
                  "receiver's calls/GiB"], rows)


class Targets:
    """What is to be reached, one line each."""

    def __init__(self):
        self.rows = []

    def add(self, what, found, limit, form="{:.2f}", least=False):
        if found is None or limit is None:
            verdict, found_text = "not measured", "–"
        else:
            verdict = "met" if (found >= limit if least else found <= limit) else "**not met**"
            found_text = form.format(found)
        limit_text = ("at least " if least else "at most ") + form.format(limit) if limit is not None else "–"
        self.rows.append([what, found_text, limit_text, verdict])

    def compare(self, case, what, value, runs, part, form):
        """The best way of each, and what comes without an option."""
        plain, best = median(runs.get(PLAIN, []), value), smallest(runs, "QEMU", value)
        self.add(f"{case}: {what}, half of plain QEMU's", median(runs["ferry"], value),
                 plain / 2 if plain is not None else None, form)
        self.add(f"{case}: {what}, best way of each, {part:g} of QEMU's", smallest(runs, "ferry", value),
                 best * part if best is not None else None, form)

    def migration(self, result):
        case, runs = result["text"], result["runs"]
        self.compare(case, "total ms", total_ms, runs, 0.6, "{:.0f}")
        self.compare(case, "CPU s", cpu, runs, 0.5, "{:.3f}")
        for side, name in enumerate(["source", "destination"]):
            self.add(f"{case}: bytes copied on the {name} %",
                     median(runs["ferry"], lambda r, s=side: r["copied"][s] * 100), 0.1, "{:.3f}")
        if result["case"] == "ram":
            return
        best, found = smallest(runs, "QEMU", gap), median(runs["ferry"], gap)
        self.add(f"{case}: blackout seen by the guest ms, 0.34 of the best QEMU's", found,
                 best * 0.34 if best is not None else None, "{:.1f}")
        if result["case"] == "idle":
            self.add(f"{case}: blackout seen by the guest ms", found, 5, "{:.1f}")
            self.add("MiB a system call in the first round",
                     median(runs["ferry"], lambda r: r["first_round"] / MIB), 1, "{:.2f}", least=True)

    def memory(self, results):
        found = [m[0] / MIB for m in memories(results, "ferry")]
        self.add("memory beyond guest RAM (Pss) MiB, either end", max(found), 4)

    def start(self, start):
        a, b = (statistics.median(start[n]) if start.get(n) else None for n in ("ferry", PLAIN))
        self.add("exec to the guest's first byte ms, a fifth of QEMU's", a, b / 5 if b else None, "{:.1f}")

    def boot(self, boot):
        times = {name: median(runs, total_ms) for name, runs in boot.items()}
        best = min((t for name, t in times.items() if name != "ferry" and t is not None), default=None)
        self.add("exec to the /init of stock Linux ms, the better QEMU's", times["ferry"], best, "{:.0f}")

    def postcopy(self, result):
        runs, case = result["runs"], "postcopy, " + result["text"]
        self.add(f"{case}: blackout ms", median(runs["ferry"], lambda r: r["blackout_ms"]), 10, "{:.1f}")
        for key in ("p50_ms", "p99_ms"):
            self.add(f"{case}: {key[:3]} of a page ms, the best QEMU's", median(runs["ferry"], lambda r, k=key: r[k]),
                     smallest(runs, "QEMU", lambda r, k=key: r[k]), "{:.2f}")

    def io(self, result):
        rates = {name: median(runs, lambda r: r["rate"]) for name, runs in result["runs"].items()}
        best = max((rate for name, rate in rates.items() if name != "ferry" and rate is not None), default=None)
        self.add(result["text"] + ", a second: the better QEMU's", rates["ferry"], best, "{:.0f}", least=True)


def targets(results, own):
    t = Targets()
    for part, found in own.items():
        part.targets(found, t)
    for result in results["migrations"]:
        t.migration(result)
    if memories(results["migrations"], "ferry"):
        t.memory(results["migrations"])
    if "start" in results:
        t.start(results["start"])
    if results.get("boot"):
        t.boot(results["boot"])
    for result in results.get("postcopy", []):
        t.postcopy(result)
    for result in results.get("io", []):
        t.io(result)
    return table(["what", "found", "to reach", ""], t.rows) if t.rows else ""


def memories(results, name):
    """(Pss, Rss) of every process of a contender."""
    return [m for x in results for r in good(x["runs"].get(name, [])) for m in r.get("memory", [])]


def memory_table(results):
    """The largest of all cases and both ends."""
    rows = []
    for name in ("ferry", PLAIN):
        found = memories(results, name)
        if found:
            rows.append([name, f"{max(m[0] for m in found) / MIB:.1f}", f"{max(m[1] for m in found) / MIB:.1f}"])
    return table(["", "Pss MiB", "Rss MiB"], rows) if rows else ""


def start_table(start):
    rows = []
    for name, found in start.items():
        if found:
            rows.append([name, f"{statistics.median(found):.1f}", f"{min(found):.1f}–{max(found):.1f}"])
    return table(["", "median ms", "range"], rows)


def boot_table(boot):
    rows = [[name, spread(runs, total_ms, "{:.0f}") + ratio(runs, boot["ferry"], total_ms)]
            for name, runs in boot.items()]
    return table(["", "ms"], rows)


def io_table(result):
    base = result["runs"]["ferry"]
    rows = [[name, spread(runs, lambda r: r["rate"], "{:.0f}") + ratio(runs, base, lambda r: r["rate"]),
             spread(runs, lambda r: r["bytes"] / MIB)] for name, runs in result["runs"].items()]
    return table(["", "a second", "MiB/s"], rows)


POSTCOPY_COLUMNS = [("blackout ms", "blackout_ms"), ("longest pause of the guest ms", "gap_ms"),
                    ("a page, p50 ms", "p50_ms"), ("p99 ms", "p99_ms"), ("longest ms", "max_ms"), ("of", "absent")]


def postcopy_table(result):
    rows = []
    for name, runs in result["runs"].items():
        failed = len(runs) - len(good(runs))
        rows.append([name + (f" ({failed} of {len(runs)} failed)" if failed else "")] +
                    [spread(runs, lambda r, k=key: r[k], "{:.0f}" if key == "absent" else "{:.2f}")
                     for _, key in POSTCOPY_COLUMNS])
    return table([""] + [head for head, _ in POSTCOPY_COLUMNS], rows)


def failures(results, own):
    lines = [f"- {x['text']}, {name}: {r['failed']}" for x in results["migrations"]
             for name, runs in x["runs"].items() for r in runs if "failed" in r]
    lines += [f"- {x['text']}, {name}: {r['failed']}" for x in results.get("postcopy", []) + results.get("io", [])
              for name, runs in x["runs"].items() for r in runs if "failed" in r]
    lines += [f"- boot, {name}: {r['failed']}" for name, runs in (results.get("boot") or {}).items()
              for r in runs if "failed" in r]
    lines += [f"- {x['content']}, {x['how']}, {x['iovecs']} iovecs: {r['failed']}"
              for x in results.get("copying", []) for r in x["runs"] if "failed" in r]
    lines += [f"- {name}: {r['failed']}" for part, found in own.items() for name, runs in part.runs(found)
              for r in runs if "failed" in r]
    return lines


def rates(result):
    """Whether the guests did the work they were asked to."""
    return ", ".join(f"{name} {median(runs, lambda r: r.get('rate')):.0f}" for name, runs in result["runs"].items()
                     if median(runs, lambda r: r.get("rate")) is not None)


def markdown(results, own):
    """All of it. @own: parts that have tables of their own, and what they found."""
    where = f"TCP between two namespaces, {results['link']} each way (tbf)" if results["link"] else "TCP on loopback"
    parts = ["# Figures\n"]
    sizes = f"guest RAM {results['memory']} MiB, {results['data']} MiB of it incompressible, the rest zero; 1 vCPU; " \
            f"downtime limit {results['downtime_limit']} ms; {where}; {results['runs']} runs of each, by turns"
    if results["scale"] != 1:
        sizes += f"; all sizes and rates divided by {results['scale']}"
    more = {"sizes": sizes, "options": results["command"], "note": results["note"]}
    for name, value in {**results["conditions"], **more}.items():
        if value:
            parts.append(f"- {name}: {value}")
    parts.append("\nMedian (smallest–largest), × is the ratio to ferry. What each column means: tests/bench/README.md.\n")
    for result in results["migrations"]:
        parts += [f"## Migration, {result['text']}\n", migration_table(result)]
        parts += [f"![{name}]({name})\n" for name in results["plots"].get(result["case"], [])]
        if result["case"] not in ("ram", "idle"):
            parts.append(f"MiB/s the guests wrote before: {rates(result)}\n")
    memory = memory_table(results["migrations"])
    if memory:
        parts += ["## Memory beyond guest RAM\n", memory]
    if "start" in results:
        parts += ["## From exec to the guest's first byte\n", start_table(results["start"])]
    if results.get("boot"):
        parts += ["## From exec to the /init of stock Linux\n", boot_table(results["boot"])]
    if "copying" in results:
        parts += ["## By reference against copying (no guest)\n", copying_table(results["copying"])]
    for result in results.get("postcopy", []):
        parts += [f"## Postcopy, {result['text']}\n", postcopy_table(result)]
    for result in results.get("io", []):
        parts += [f"## {result['text']}\n", io_table(result)]
    for part, found in own.items():
        for title, text in part.sections(found):
            parts += [f"## {title}\n", text]
    reached = targets(results, own)
    if reached:
        parts += ["## To reach\n", reached]
    for text, lines in results.get("profile", []):
        parts += [f"## Profile, {text}\n", "```", lines, "```\n"]
    failed = failures(results, own)
    if failed:
        parts += ["## Failed runs\n", *failed, ""]
    return "\n".join(parts)
