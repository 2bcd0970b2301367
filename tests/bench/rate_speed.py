# SPDX-License-Identifier: BSD-2-Clause
"""The highest rate at which a guest may write to its memory for a migration to come to an end within the downtime limit,
nobody slowing it down: found by halving a ladder of rates, each run anew."""

import statistics
import time

from machines import Failed, Ferry, Qemu, ferrytest
from report import spread, table
from workload import Case, settle, status

LADDER = [25 * 1.1 ** n for n in range(57)]     # MiB/s, 25 to 5200
LIMIT = 60              # seconds; what has not ended by then does not converge
SETTLE = 4              # seconds; what the guest says that it wrote are whole MiB
NOT_YET = ("setup", "active", "device", "pre-switchover")


def completed(source):
    """Whether it came to an end in time."""
    deadline = time.monotonic() + LIMIT
    state = "setup"
    while state in NOT_YET:
        source.qmp.sock.settimeout(max(0.001, deadline - time.monotonic()))
        try:
            state = source.qmp.event("MIGRATION", "MIGRATION_PASS")["data"].get("status", state)
        except TimeoutError:
            return False
    if state != "completed":
        source.fail(state)
    return True


def converges(contender, case, a):
    """None when it does not, else the rate that the guest did reach and the blackout."""
    machines = []
    try:
        source = contender.source(case.cmdline, case.memory)
        machines.append(source)
        source.expect("dirty ready")
        reached = settle(source, SETTLE)["rate"]
        destination = contender.destination(case.cmdline, case.memory)
        machines.append(destination)
        source.qmp.run("migrate", uri=destination.uri)
        if not completed(source):
            return None
        destination.migration_end()
        gap = status(destination)[1]
        destination.send("v")
        destination.expect("verify ok")
        return {"rate": case.asked if reached > 0.9 * case.asked else reached, "gap_ms": gap}
    finally:
        for machine in machines:
            machine.end()


def highest(contender, a, say):
    """The upper end of what converges, by halving. A rate that the guest cannot reach counts as what it did reach."""
    low, high, best = -1, len(LADDER), None
    while high - low > 1:
        step = (low + high) // 2
        case = Case("rate", a, LADDER[step], a.data * a.scale * 7 // 8)
        found = converges(contender, case, a)
        say(f"rates {contender.name}: {case.text}: {found or 'does not converge'}")
        if found:
            low, best = step, found
        else:
            high = step
    return {**(best or {"rate": 0, "gap_ms": None}), "top": high == len(LADDER)}


def ways(a):
    return [Ferry("ferry", a), Ferry("ferry, 2 channels", a, channels=2), Qemu("QEMU", a),
            Qemu("QEMU, multifd 2", a, channels=2)]


def measure(a, _touch, say):
    contenders = [c for c in ways(a) if a.wanted(c.name)]
    found = {c.name: [] for c in contenders}
    for number in range(a.runs):
        for contender in contenders:
            try:
                found[contender.name].append(highest(contender, a, say))
            except (Failed, ferrytest.Failure, OSError) as e:
                found[contender.name].append({"failed": str(e)})
            say(f"rates {number + 1}/{a.runs} {contender.name}: {found[contender.name][-1]}")
        contenders.append(contenders.pop(0))
    return found


def best(found, who):
    """The largest median of all ways of @who."""
    rates = [[r["rate"] for r in runs if "failed" not in r] for name, runs in found.items() if name.startswith(who)]
    return max((statistics.median(r) for r in rates if r), default=None)


def runs(found):
    """Whose, and all of them."""
    return [(f"rates, {name}", x) for name, x in found.items()]


def sections(found):
    """Its part of the report."""
    rows = [[name + (" (up to the highest tried)" if any(x.get("top") for x in runs) else ""),
             spread(runs, lambda x: x["rate"]), spread(runs, lambda x: x["gap_ms"], "{:.0f}")]
            for name, runs in found.items()]
    return [("The highest rate that converges", table(["", "MiB/s", "seen by the guest ms"], rows))]


def targets(found, t):
    t.add("highest rate that converges MiB/s, the best QEMU's", best(found, "ferry"), best(found, "QEMU"), "{:.1f}",
          least=True)
