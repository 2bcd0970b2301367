# SPDX-License-Identifier: BSD-2-Clause
"""A guest that stays on its host: how long it takes to hand it to another ferry (`ferry upgrade`), and to have a saved one
run again (`ferry restore`), by the size of its RAM. There is nothing of QEMU's to compare with."""

import json
import os
import time

from machines import ferrytest
from report import median, spread, table

SIZES = 256, 16384      # MiB
FILLED = 8              # one part in so many
LIMIT_MS = 20


def upgrade(machine, given):
    """From the command to the first instruction there, the start of the new process included."""
    status, out, err = ferrytest.ferry("upgrade", machine.control, "--json")
    ferrytest.check(status == 0, err)
    info = json.loads(out)["x-ferry"]
    ferrytest.same(info["ram-given"], given, "bytes of RAM given")
    return {"total": info["total-ns"] / 1e6, "blackout": info["blackout-ns"] / 1e6}


def measure_upgrade(a, mib, backing):
    """It goes on rewriting 8 MiB."""
    machine = ferrytest.run(f"dirty fill={max(16, mib // FILLED)} ws=8 rate=100", "--memory-backing", backing, memory=str(mib))
    machine.expect("dirty ready")
    given = mib << 20 if backing == "shared" else 0
    runs = [upgrade(machine, given) for _ in range(a.warm_up + a.runs)]
    machine.send("v")
    machine.expect("verify ok")
    machine.kill()
    return runs[a.warm_up:]


def restore(path, options):
    """From before the exec to the moment at which vCPUs were let go."""
    began = time.monotonic_ns()
    machine = ferrytest.Machine("restore", path, *options)
    ferrytest.wait_until(lambda: machine.qmp.run("query-migrate").get("status") == "completed", "the guest to arrive")
    info = machine.qmp.run("query-migrate")["x-ferry"]
    machine.kill()
    return {"total": (info["resumed-ns"] - began) / 1e6, "blackout": info["total-ns"] / 1e6}


def measure_restore(a, mib):
    machine = ferrytest.run(f"dirty fill={max(16, mib // FILLED)} ws=1 rate=1", memory=str(mib))
    machine.expect("dirty ready")
    path = os.path.join(ferrytest.scratch, "saved")
    ferrytest.same(ferrytest.ferry("save", machine.control, path)[0], 0, "ferry save")
    machine.kill()
    ways = {"restored lazily": ("--lazy",), "restored": ()}
    found = {name: [] for name in ways}
    for _ in range(a.warm_up + a.runs):
        for name, options in ways.items():
            found[name].append(restore(path, options))
    os.unlink(path)
    return {name: runs[a.warm_up:] for name, runs in found.items()}


def attempt(what):
    try:
        return what()
    except (ferrytest.Failure, OSError) as e:
        return {"failed": [{"failed": str(e)}]}


def measure(a, _touch, say):
    results = []
    for mib in (max(64, size // a.scale) for size in SIZES):
        found = {}
        for how in ("shared", "anon") if mib <= 1024 else ("shared",):
            found.update(attempt(lambda how=how: {f"handed over, {how}": measure_upgrade(a, mib, how)}))
        found.update(attempt(lambda: measure_restore(a, mib)))
        for how, runs in found.items():
            results.append({"mib": mib, "how": how, "runs": runs})
            say(f"handover {mib} MiB, {how}: {runs}")
    return results


def runs(found):
    """Whose, and all of them."""
    return [(f"{x['how']}, {x['mib']} MiB", x["runs"]) for x in found]


def sections(found):
    rows = [[f"{x['mib']} MiB", x["how"], *(spread(x["runs"], lambda r, k=k: r[k]) for k in ("total", "blackout"))]
            for x in found]
    return [("On one host", table(["RAM", "how", "in all ms", "guest stood still, or of that the restore, ms"], rows))]


def targets(found, t):
    for x in found:
        if x["how"] in ("handed over, shared", "restored lazily"):
            t.add(f"{x['how']}, {x['mib']} MiB: ms in all", median(x["runs"], lambda r: r["total"]), LIMIT_MS, "{:.1f}")
