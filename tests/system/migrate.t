#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""A guest crosses: over every channel, with every shape of RAM and number of vCPUs, there and back,
and finds its memory, its processors, its devices and its clock as they were.

Every migration here is made with x-verify, so that both sides digest all RAM at switchover and the
destination refuses a difference; the guests check their memory themselves besides."""

import os
import re
import socket
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import ferrytest as t

PASSED = 0x2A << 1 | 1
ROUNDS = int(os.environ.get("FERRY_TEST_ROUNDS", "100"))


def cross(source, uri=None, *options, **parameters):
    """Migrate to a new machine, which is returned. The source must end with status 0."""
    destination = t.receive(uri, *options)
    parameters.setdefault("x_verify", True)
    source.qmp.run("migrate-set-parameters", **parameters)
    source.qmp.run("migrate", uri=destination.uri)
    t.same(source.wait(), 0, "exit status of the source")
    t.same(source.stderr(), "", "stderr of the source")
    return destination


def finish(machine, program):
    machine.send("q")
    machine.expect("^PASS " + program)
    t.same(machine.wait(), PASSED, "exit status of the destination")
    t.same(machine.stderr(), "", "stderr of the destination")


def dirty(options="fill=8 ws=2 rate=20 content=mixed", **kw):
    m = t.run("dirty " + options, **kw)
    m.expect("^dirty ready.*\n")
    return m


def verify(machine):
    machine.send("v")
    machine.expect(r"^verify ok.*\n")


@t.test
def dirtying_guest_over_unix():
    m = cross(dirty())
    verify(m)
    finish(m, "dirty")


@t.test
def a_guest_that_has_just_come_can_leave_at_once():
    m = dirty("fill=2 ws=1 rate=20", memory="16")
    for _ in range(20):
        destination = t.receive(None)
        destination.qmp.run("query-status")
        m.qmp.run("migrate", uri=destination.uri)
        # Not when the thread that received it is done, but when the guest runs.
        destination.qmp.event("RESUME")
        m = destination
    verify(m)
    finish(m, "dirty")


@t.test
def dirtying_guest_over_tcp_4_and_6():
    hosts = ["127.0.0.1", "localhost"]
    try:
        with socket.socket(socket.AF_INET6) as s:
            s.bind(("::1", 0))
        hosts.append("[::1]")
    except OSError:
        pass
    for host in hosts:
        m = cross(dirty(), "tcp:%s:0" % host)
        verify(m)
        finish(m, "dirty")


@t.test
def dirtying_guest_over_descriptors():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        destination = t.receive("fd:%d" % theirs.fileno())
        source = t.run("dirty fill=4 ws=2 rate=20", wrap=(), fds=(ours.fileno(),))
        source.expect("^dirty ready.*\n")
        source.qmp.run("migrate-set-parameters", x_verify=True)
        source.qmp.run("migrate", uri="fd:%d" % ours.fileno())
        t.same(source.wait(), 0, "exit status of the source")
    verify(destination)
    finish(destination, "dirty")


def multifd(machine, channels):
    machine.qmp.run("migrate-set-capabilities",
                    capabilities=[{"capability": "multifd", "state": channels > 1}])
    return {"multifd_channels": channels}


@t.test
def dirtying_guest_over_several_channels():
    for uri in (None, "tcp:127.0.0.1:0"):
        for channels in (2, 4):
            m = dirty()
            m = cross(m, uri, **multifd(m, channels))
            ram = m.qmp.run("query-migrate")["ram"]
            # How much there is depends on how many rounds it takes.
            t.check(ram["multifd-bytes"] > 0.9 * ram["transferred"] > 2 << 20, "RAM came by other ways: %s" % ram)
            verify(m)
            finish(m, "dirty")


@t.test
def dirtying_guest_compressed():
    for channels in (1, 2):
        for mode in ("on", "auto"):
            m = dirty()
            m.qmp.run("migrate-set-parameters", x_compress=mode, compress_level=2)
            m = cross(m, max_bandwidth=8 << 20, **multifd(m, channels))
            info = m.qmp.run("query-migrate")
            # Whether auto does it depends on how fast the CPU is.
            if mode == "on":
                t.check(info["ram"]["transferred"] < info["ram"]["normal-bytes"], "it came as it was: %s" % info)
                t.check(info["x-ferry"]["delta-pages"] > 0, "no page came as a difference: %s" % info)
            verify(m)
            finish(m, "dirty")


@t.test
def several_channels_and_either_side_dies():
    for victim in ("source", "destination"):
        for mib in (1, 4):
            source = dirty("fill=16 ws=2 rate=20 content=random", memory="32")
            destination = t.receive(None)
            source.qmp.run("migrate-set-parameters", max_bandwidth=4 << 20, **multifd(source, 3))
            source.qmp.run("migrate", uri=destination.uri)
            t.wait_until(lambda: source.qmp.run("query-migrate").get("ram", {})
                         .get("transferred", 0) >= mib << 20, "%d MiB have left" % mib)
            (source if victim == "source" else destination).process.kill()
            if victim == "source":
                t.same(destination.wait(), 1, "exit status of the destination")
                continue
            t.wait_until(lambda: source.qmp.run("query-migrate")["status"] == "failed",
                         "the source notices")
            verify(source)
            source.send("q")
            source.expect("^PASS dirty")
            t.same(source.wait(), PASSED, "exit status of the source")


@t.test
def several_channels_cancelled_then_tried_again():
    m = dirty("fill=16 ws=2 rate=20 content=random", memory="32")
    destination = t.receive(None)
    m.qmp.run("migrate-set-parameters", max_bandwidth=4 << 20, **multifd(m, 4))
    m.qmp.run("migrate", uri=destination.uri)
    t.wait_until(lambda: m.qmp.run("query-migrate")["status"] == "active", "it is under way")
    m.qmp.run("migrate_cancel")
    t.wait_until(lambda: m.qmp.run("query-migrate")["status"] == "cancelled", "it is cancelled")
    t.same(destination.wait(), 1, "exit status of the destination")
    again = t.receive(None)
    m.qmp.run("migrate-set-parameters", max_bandwidth=0)
    m.qmp.run("migrate", uri=again.uri)
    t.same(m.wait(), 0, "exit status of the source")
    verify(again)
    finish(again, "dirty")


@t.test
def idle_guest():
    m = cross(dirty("fill=8 ws=2 idle=1"))
    verify(m)
    finish(m, "dirty")


@t.test
def memory_small_odd_sparse_and_above_4_GiB():
    for memory, options in (("2", "fill=0 ws=0 idle=1"),
                            ("%dK" % (19 * 1024 + 4), "fill=2 ws=1 rate=10"),
                            ("5G", "fill=2 ws=1 rate=10"),
                            ("32", "fill=20 ws=1 rate=10 content=zero")):
        # A digest of gigabytes takes an emulated processor minutes.
        m = cross(dirty(options, memory=memory), x_verify=memory != "5G")
        verify(m)
        finish(m, "dirty")


@t.test
def vcpus_1_2_and_4():
    for n in ("1", "2", "4"):
        for options in ("seconds=600", "seconds=600 idle=1"):
            m = t.run("smp " + options, cpus=n)
            m.expect("^smp ready.*\n")
            m = cross(m)
            m.send("s")
            m.expect("^smp cpus=%s .*\n" % n)
            finish(m, "smp")


@t.test
def pending_timers_of_every_kind():
    for timer in ("deadline", "lapic", "oneshot", "pit"):
        for idle in ("0", "1"):
            m = t.run("tick seconds=0 hz=50 timer=%s idle=%s" % (timer, idle))
            m.expect("^tick ready.*\n")
            m = cross(cross(m))
            m.expect("^tick n=.*\n")
            finish(m, "tick")


@t.test
def a_halted_guest():
    m = t.run("hello end=halt")
    m.expect("^PASS hello")
    m = cross(m)
    m.process.terminate()
    t.same(m.wait(), 0, "exit status")


def fresh(machine, line):
    """A line that the guest prints now: what was kept for the next reader of the port comes at once."""
    while True:
        asked = time.monotonic()
        found = machine.expect(line)
        if time.monotonic() - asked > 0.2:
            return found


@t.test
def clock_never_goes_back_and_advances_by_the_blackout():
    m = t.run("tick seconds=0 hz=20")
    m.expect("^tick ready.*\n")
    line = r"^tick n=.*?gap_us=(\d+).*?now_ns=(\d+) wall_ns=(\d+).*\n"
    before = fresh(m, line)
    real_before = time.time_ns()
    for _ in range(3):
        m = cross(m)
    after = fresh(m, line)
    real_after = time.time_ns()
    elapsed = int(after[2]) - int(before[2])
    t.check(elapsed > 0, "monotonic time went back by %d ns" % -elapsed)
    real = real_after - real_before
    # What is printed reaches us late when the machine is busy.
    late = 5e8 + 1e8 * t.SLOWNESS
    t.check(abs(elapsed - real) < late,
            "the guest saw %.3f s pass, the host %.3f s" % (elapsed / 1e9, real / 1e9))
    t.check(abs(int(after[3]) - real_after) < late, "the wall clock is off by %.3f s" %
            ((int(after[3]) - real_after) / 1e9))
    finish(m, "tick")


@t.test
def watchdogs_are_told_of_the_pause():
    m = t.run("tick seconds=0 hz=20")
    line = r"^tick n=.* stopped=(\d+)\s"
    t.same(m.expect(line)[1], "0", "pauses seen before")
    m = cross(m)
    m.expect(line)
    t.check(int(m.expect(line)[1]) > 0, "the guest was not told that it had been stopped")
    finish(m, "tick")


@t.test
def reported_and_seen_blackout_agree():
    m = dirty("fill=4 ws=1 idle=1")
    m.send("s")     # begins anew
    m.expect("^dirty rounds.*\n")
    source = m
    destination = t.receive()
    source.qmp.run("migrate", uri=destination.uri)
    done = source.qmp.event("MIGRATION", match=lambda d: d["status"] == "completed")
    reported = done["data"]["x-info"]["x-ferry"]["blackout-ns"]
    destination.send("s")
    seen = int(destination.expect(r"gap_us=(\d+) ")[1]) * 1000
    t.check(seen >= reported * 0.9, "reported %.2f ms, the guest saw %.2f ms" %
            (reported / 1e6, seen / 1e6))
    t.check(seen <= reported * 1.5 + 5e6 * t.SLOWNESS, "reported %.2f ms, the guest saw %.2f ms" %
            (reported / 1e6, seen / 1e6))
    finish(destination, "dirty")


@t.test
def processor_state():
    m = t.run("cpu seconds=0")
    m.expect("^cpu ready.*\n")
    for _ in range(3):
        m = cross(m)
    m.send("s")
    m.expect(r"^cpu checks=.*\n")
    finish(m, "cpu")


@t.test
def virtio_devices_in_flight():
    for irq in ("0", "1"):
        disk = os.path.join(t.scratch, "disk" + irq)
        with open(disk, "wb") as f:
            f.truncate(2 << 20)
        console = os.path.join(t.scratch, "console" + irq)
        m = t.run("vio seconds=600 irq=%s depth=16" % irq, "--disk", disk, "--rng",
                  "--console", "file:" + console)
        m.expect("^vio ready.*\n")
        for _ in range(3):
            m = cross(m)
        m.send("s")
        m.expect(r"^vio blk rounds=.*\n")
        finish(m, "vio")


@t.test
def a_paused_guest_stays_paused():
    m = dirty()
    m.qmp.run("stop")
    m = cross(m)
    t.wait_until(lambda: m.qmp.run("query-status")["status"] != "inmigrate", "the arrival")
    t.same(m.qmp.run("query-status")["status"], "paused", "status at the destination")
    m.qmp.run("cont")
    verify(m)
    finish(m, "dirty")


@t.test
def reset_after_a_migration():
    m = t.run("hello end=reset")
    m.expect("^PASS hello")
    m = cross(m)
    for _ in range(2):
        m.expect("^PASS hello")
    m.process.terminate()
    t.same(m.wait(), 0, "exit status")


@t.test
def system_reset_with_devices_after_a_migration():
    disk = os.path.join(t.scratch, "disk-reset")
    with open(disk, "wb") as f:
        f.truncate(1 << 20)
    m = t.run("vio seconds=600 irq=1", "--disk", disk, "--rng")
    m.expect("^vio ready.*\n")
    m = cross(m)
    m.send("s")
    m.expect(r"^vio blk rounds=.*\n")
    m.qmp.run("system_reset")
    m.expect("^vio ready.*\n")
    m.send("s")
    m.expect(r"^vio blk rounds=.*\n")
    finish(m, "vio")


@t.test
def guest_that_ends_while_it_migrates():
    m = dirty("fill=8 ws=4 seconds=2")
    d = t.receive()
    m.qmp.run("migrate-set-parameters", max_bandwidth=1 << 20)
    m.qmp.run("migrate", uri=d.uri)
    m.expect("^PASS dirty")
    t.same(m.wait(), PASSED, "exit status of the source")
    t.same(d.wait(), 1, "exit status of the destination")


@t.test
def early_boot():
    for _ in range(3):
        m = t.run("dirty fill=1 ws=1 rate=10", "--paused")
        m.qmp.run("cont")
        m = cross(m)
        m.expect("^dirty ready.*\n")
        verify(m)
        finish(m, "dirty")


@t.test
def save_and_restore():
    path = os.path.join(t.scratch, "saved")
    m = dirty()
    t.same(t.ferry("save", m.control, path)[0], 0, "status of ferry save")
    verify(m)
    finish(m, "dirty")
    status, out, err = t.ferry("inspect", path)
    t.same((status, err), (0, ""), "ferry inspect")
    for word in ("MACHINE", "STATE", "cpu@0", "serial@"):
        t.check(word in out, "ferry inspect does not show %r" % word)
    m = t.Machine("restore", path)
    verify(m)
    finish(m, "dirty")


@t.test
def there_and_back_many_times():
    m = dirty("fill=4 ws=1 rate=10", memory="24")
    for _ in range(ROUNDS):
        m = cross(m)
    verify(m)
    finish(m, "dirty")


t.main()
