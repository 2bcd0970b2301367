# SPDX-License-Identifier: BSD-2-Clause
"""The guest before its memory: how long it stands still, and how long a page takes that it touches."""

import measure
from machines import Failed, Ferry, Qemu, capabilities, ferrytest

TOUCHED = r"touch pages=\d+ absent=(\d+) p50_ns=(\d+) p99_ns=(\d+) max_ns=(\d+)\n"
SECONDS = 5             # that all pages take by themselves: so most of those touched have to be asked for
ABSENT_US = 20          # a page that takes less was there


class FerryPostcopy(Ferry):
    def begin(self, source, uri):
        capabilities(source, "postcopy-ram")
        source.qmp.run("migrate", uri=uri)


class QemuPostcopy(Qemu):
    """@preempt: pages that the guest waits for have a connection of their own (QEMU 7.1 and later)."""

    def __init__(self, name, options, preempt=False, **parameters):
        super().__init__(name, options, **parameters)
        self.preempt = preempt

    def prepare(self, machine, **parameters):
        capabilities(machine, "postcopy-ram", *(["postcopy-preempt"] if self.preempt else []))
        super().prepare(machine, **parameters)

    def begin(self, source, uri):
        source.qmp.run("migrate", uri=uri)
        source.qmp.event("MIGRATION", match=lambda d: d["status"] == "active")
        source.qmp.run("migrate-start-postcopy")


def status(machine):
    """The largest gap in ms since the last time."""
    machine.send("s")
    return int(machine.expect(r"dirty rounds=\d+ mib=\d+ gap_us=(\d+) ").group(1)) / 1e3


def run(contender, case, scale):
    """One move at once; the touches begin as soon as the guest is there."""
    machines = []
    try:
        source = contender.source(f"{case.cmdline} absent_us={ABSENT_US * scale}", case.memory)
        machines.append(source)
        source.expect("dirty ready")
        destination = contender.destination(case.cmdline, case.memory)
        machines.append(destination)
        status(source)
        contender.begin(source, destination.uri)
        source.qmp.event("MIGRATION", match=lambda d: d["status"] == "postcopy-active")
        destination.qmp.event("RESUME")         # what is typed before that may be lost with the state that comes
        destination.send("t")
        absent, p50, p99, longest = map(int, destination.expect(TOUCHED).groups())
        if not absent:
            destination.fail("no page was missing")
        for machine in machines:
            how, _ = machine.migration_end()
            if how != "completed":
                machine.fail(how)
        gap = status(destination)
        destination.send("v")
        destination.expect("verify ok")
        info = source.qmp.run("query-migrate")
        blackout = info["x-ferry"]["blackout-ns"] / 1e6 if isinstance(contender, Ferry) else info["downtime"]
        return {"blackout_ms": blackout, "gap_ms": gap, "absent": absent, "p50_ms": p50 / 1e6, "p99_ms": p99 / 1e6,
                "max_ms": longest / 1e6}
    except (Failed, ferrytest.Failure, OSError) as e:
        return {"failed": str(e)}
    finally:
        for machine in machines:
            machine.end()


def measure_postcopy(a, cases, say):
    """All ways by turns, for each workload."""
    limit = {"max_postcopy_bandwidth": a.data * measure.MIB // SECONDS}
    ways = [FerryPostcopy("ferry", a, x_postcopy="0", **limit), QemuPostcopy("QEMU", a, **limit),
            QemuPostcopy("QEMU, preempt", a, preempt=True, **limit)]
    results = []
    for case in cases:
        found = {way.name: [] for way in ways}
        for number in range(-a.warm_up, a.runs):
            for way in ways:
                r = run(way, case, a.scale)
                found[way.name].append(r)
                text = "failed: " + r["failed"] if "failed" in r else ", ".join(f"{k} {v:.1f}" for k, v in r.items())
                say(f"postcopy {case.name} {number + 1}/{a.runs} {way.name}: {text}")
            ways.append(ways.pop(0))
        results.append({"text": case.text, "runs": {name: runs[a.warm_up:] for name, runs in found.items()}})
    return results
