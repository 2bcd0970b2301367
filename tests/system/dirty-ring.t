#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Guests whose writes are logged by the dirty ring instead of by the bitmap: the same guest arrives, with every
byte, wherever it comes from and goes to."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import ferrytest as t
from checks import arrived, at_home, dirty, end, held, make_disk, start, verify

MIB = 1 << 20


def move(source, log, **parameters):
    """Move to a destination that logs by @log; x-verify compares all RAM."""
    destination = t.receive(None, "--dirty", log)
    start(source, destination.uri, max_bandwidth=16 * MIB, x_verify=True, **parameters)
    report = end(source)
    t.same((report["status"], report.get("error-desc")), ("completed", None), "the migration")
    t.same(source.wait(), 0, "exit status of the source")
    verify(arrived(destination))
    return destination, report


@t.test
def to_and_fro_between_hosts_with_ring_and_bitmap():
    machine = dirty("fill=2 ws=1 rate=20", "--dirty", "ring")
    for log, was in (("bitmap", "ring"), ("ring", "bitmap"), ("ring", "ring"), ("bitmap", "ring")):
        machine, report = move(machine, log)
        t.same(report["x-ferry"]["dirty-log"], was, "the log of the source")
        t.check(report["ram"]["dirty-sync-count"] > 1, "only one round")


@t.test
def a_ring_that_gets_full():
    # 20 MiB are 5120 pages, the ring has 4096 entries, and the first round lasts longer than writing these.
    machine = dirty("fill=12 ws=20 rate=0", "--dirty", "ring", "--cpus", "2", memory="48")
    machine, report = move(machine, "ring", downtime_limit=10000)
    t.check(report["ram"]["normal"] > 32 * 256, "nothing was sent twice: %r" % report["ram"])
    t.check(report["x-ferry"]["dirty-ring-full"] > 0, "it was never full")


@t.test
def after_a_cancel_it_is_off_and_works_again():
    source = dirty("fill=1 ws=2 rate=0", "--dirty", "ring")
    source.qmp.run("query-migrate")
    before = held(source)
    for _ in range(3):
        destination = t.receive()
        start(source, destination.uri, max_bandwidth=3 * MIB, downtime_limit=0)
        source.qmp.event("MIGRATION_PASS", match=lambda d: d["pass"] >= 3)
        source.qmp.run("migrate_cancel")
        t.same(end(source)["status"], "cancelled", "status of the migration")
        at_home(source, before)
    source.qmp.run("migrate-set-parameters", downtime_limit=300)
    move(source, "bitmap")


@t.test
def writes_of_devices_are_seen_beside_the_ring():
    disk = make_disk("disk", 2 * MIB)
    source = t.run("vio seconds=600 irq=1 depth=8", "--disk", disk, "--rng", "--dirty", "ring", memory="16")
    source.expect("^vio ready.*\n")
    destination = t.receive(None, "--dirty", "ring")
    start(source, destination.uri, max_bandwidth=4 * MIB, downtime_limit=1, x_timeout=int(2 * max(1, t.SLOWNESS / 4)),
          x_on_timeout="force", x_verify=True)
    report = end(source)
    t.same((report["status"], report.get("error-desc")), ("completed", None), "the migration")
    t.check(report["ram"]["dirty-sync-count"] > 2, "there were only %d rounds" % report["ram"]["dirty-sync-count"])
    destination.send("s")
    destination.expect(r"^vio blk rounds=.*\n")


@t.test
def what_vcpus_write_is_told_by_the_ring():
    source = dirty("fill=1 ws=2 rate=0 compute=1", "--dirty", "ring", "--cpus", "2")
    destination = t.receive()
    start(source, destination.uri, max_bandwidth=3 * MIB, downtime_limit=20)
    source.qmp.event("MIGRATION_PASS", match=lambda d: d["pass"] >= 4)
    info = source.qmp.run("query-migrate")
    vcpus = info["x-ferry"]["vcpus"]
    print("# %r, in all %d" % (vcpus, info["ram"]["dirty-pages-rate"]), flush=True)
    t.check(vcpus[0]["dirty-pages-rate"] > 10 * vcpus[1]["dirty-pages-rate"], "who dirties: %r" % vcpus)
    source.qmp.run("migrate_cancel")
    end(source)
    verify(source)


if __name__ == "__main__":
    t.main()
