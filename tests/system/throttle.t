#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Guests that are too fast for the link and are slowed down: enough to arrive, those that are the cause and no others,
and not a moment longer than the migration takes."""

import os
import re
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import ferrytest as t
from checks import at_home, dirty, end, held, start, status, verify

MIB = 1 << 20
# As fast as it goes over a link that takes 3 MiB/s: what is left never fits 20 ms.
LINK = dict(max_bandwidth=3 * MIB, downtime_limit=20)
GUEST = "fill=1 ws=2 rate=0"


def auto_converge(machine, state=True):
    machine.qmp.run("migrate-set-capabilities", capabilities=[dict(capability="auto-converge", state=state)])


def passes(source, n):
    source.qmp.event("MIGRATION_PASS", match=lambda d: d["pass"] >= n)


class Work:
    """What the guest has done so far, by its own counters and clock."""

    def __init__(self, machine):
        machine.send("s")
        line = machine.expect(r"^dirty rounds=.*? mib=(\d+) gap_us=\d+ now_ns=(\d+) .*\n")
        self.mib, self.seconds, self.turns = int(line[1]), int(line[2]) / 1e9, 0
        if machine.cpus > 1:
            self.turns = int(machine.expect(r"^compute cpu=1 turns=(\d+).*\n")[1])

    def since(self, before):
        """MiB and turns a second."""
        seconds = self.seconds - before.seconds
        return (self.mib - before.mib) / seconds, (self.turns - before.turns) / seconds


def measure(machine, seconds):
    """What the guest does in about that time, which is waited for in its own."""
    before = Work(machine)
    after = t.wait_until(lambda: (lambda w: w if w.seconds - before.seconds > seconds else None)(Work(machine)),
                         "the guest to work")
    return after.since(before)


def throttled(source, percent):
    """Wait until it is slowed so much, and let the round go on for a minute; what query-migrate says then."""
    def look():
        info = source.qmp.run("query-migrate")
        t.check(info["status"] in ("setup", "active"), "status of the migration: %r" % info)
        return info if info.get("cpu-throttle-percentage", 0) >= percent else None
    info = t.wait_until(look, "the guest to be slowed by %d %%" % percent)
    source.qmp.run("migrate-set-parameters", max_bandwidth=MIB // 64)
    return info


def guest(options=GUEST, cpus=1):
    machine = dirty(options, "--cpus", str(cpus))
    machine.cpus = cpus
    return machine


def on_terminal(*arguments):
    """Run a command of ferry whose stderr is a terminal: status, stdout, stderr."""
    master, slave = os.openpty()
    with subprocess.Popen([t.FERRY, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=slave) as p:
        os.close(slave)
        shown = b""
        while True:
            try:
                data = os.read(master, 4096)
            except OSError:
                break                               # its only writer has ended
            shown += data
        out = p.stdout.read()
    os.close(master)
    return p.returncode, out.decode(), shown.decode()


@t.test
def too_fast_a_guest_arrives_when_slowed():
    source = guest()
    source.qmp.run("query-migrate")
    before = held(source)
    destination = t.receive()
    start(source, destination.uri, **LINK)
    passes(source, 6)
    info = source.qmp.run("query-migrate")
    t.same(info["status"], "active", "status of the migration without auto-converge")
    t.check("cpu-throttle-percentage" not in info, "it is slowed without auto-converge: %r" % info)
    t.check(info.get("expected-downtime", 0) > 20, "the expected downtime is %d ms" % info["expected-downtime"])
    t.check(info["ram"]["dirty-pages-rate"] > 0, "no rate of dirty pages")
    source.qmp.run("migrate_cancel")
    t.same(end(source)["status"], "cancelled", "status of the migration")
    t.same(destination.wait(), 1, "exit status of the destination")
    at_home(source, before)
    destination = t.receive()
    code, out, shown = on_terminal("migrate", source.control, destination.uri, "--converge", "auto", "--timeout",
                                   str(int(60 * max(1, t.SLOWNESS / 10))), "--max-bandwidth", "3M/s",
                                   "--downtime-limit", "20", "--verify")
    t.same(code, 0, "ferry migrate --converge auto, which showed %r" % shown[-500:])
    print("# " + out.splitlines()[0], flush=True)
    for words in (r"/s dirtied, blackout \d+ ms", r"slowed by \d+ %"):
        t.check(re.search(words, shown), "%r is not in its progress: %r" % (words, shown[-500:]))
    t.same(source.wait(), 0, "exit status of the source")
    verify(destination)


@t.test
def a_cancel_lets_it_go_at_once():
    source = guest()
    source.qmp.run("query-migrate")
    before = held(source)
    free, _ = measure(source, 1)
    auto_converge(source)
    destination = t.receive()
    start(source, destination.uri, **LINK)
    throttled(source, 70)
    slow, _ = measure(source, 1)
    asked = time.monotonic()
    source.qmp.run("migrate_cancel")
    t.same(end(source)["status"], "cancelled", "status of the migration")
    took = time.monotonic() - asked
    again, _ = measure(source, 1)
    print("# %.1f MiB/s, slowed %.1f, after the cancel %.1f; it took %.0f ms" % (free, slow, again, took * 1000), flush=True)
    t.check(slow < free * 0.5, "slowed it still wrote %.1f of %.1f MiB/s" % (slow, free))
    # What it wrote before is a burst at times, on a host that others use, too.
    t.check(again > slow * 2 and again > free * 0.2, "after the cancel it wrote %.1f MiB/s, %.1f before and %.1f when slowed"
            % (again, free, slow))
    t.check("cpu-throttle-percentage" not in source.qmp.run("query-migrate"), "it is still said to be slowed")
    at_home(source, before)


@t.test
def a_pause_does_not_wait_for_a_sleep():
    source = guest()
    auto_converge(source)
    destination = t.receive()
    start(source, destination.uri, **LINK)
    throttled(source, 80)
    slowest = 0
    for _ in range(10):
        asked = time.monotonic()
        source.qmp.run("stop")
        slowest = max(slowest, time.monotonic() - asked)
        t.same(status(source), "paused", "status of the source")
        source.qmp.run("cont")
    print("# the slowest stop took %.1f ms" % (slowest * 1000), flush=True)
    t.check(slowest < 0.02 * t.SLOWNESS, "a stop took %.0f ms" % (slowest * 1000))
    source.qmp.run("migrate_cancel")
    end(source)
    verify(source)


@t.test
def who_only_computes_keeps_its_speed():
    source = guest(GUEST + " compute=1", cpus=2)
    _, free = measure(source, 1)
    auto_converge(source)
    destination = t.receive()
    start(source, destination.uri, **LINK)
    info = throttled(source, 70)
    vcpus = info["x-ferry"]["vcpus"]
    _, meanwhile = measure(source, 2)
    print("# turns a second: %.0f before, %.0f meanwhile; %r" % (free, meanwhile, vcpus), flush=True)
    t.check(vcpus[0]["throttle-percentage"] >= 70, "who dirties is slowed by %r" % vcpus[0])
    t.check(vcpus[1]["throttle-percentage"] <= 5, "who computes is slowed by %r" % vcpus[1])
    t.check(vcpus[0]["dirty-pages-rate"] > 10 * vcpus[1]["dirty-pages-rate"], "who dirties: %r" % vcpus)
    # It has the other's processor, too, so it may even be faster.
    t.check(meanwhile > free * 0.6, "it computed %.0f turns a second, %.0f before" % (meanwhile, free))
    source.qmp.run("migrate-set-parameters", max_bandwidth=0)
    report = end(source)
    t.same((report["status"], report.get("error-desc")), ("completed", None), "the migration")
    verify(destination)


if __name__ == "__main__":
    t.main()
