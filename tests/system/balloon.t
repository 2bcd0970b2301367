#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""The balloon takes RAM and gives it back, and a migration leaves out what the guest has no use for.

The guest (guest/balloon.c) knows what each page should hold that it has not left to the device, takes
half of the pages it hints back at once and goes on writing to them."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import ferrytest as t
from checks import huge_pages

MIB = 1 << 20
FILL = 16
PAGES = FILL * MIB // 4096
# The second half is hinted, of which every other page is taken back.
LEFT = PAGES // 4
# So slow that the guest has hinted all long before its pages are due.
SLOW = {"max_bandwidth": 8 * MIB}


def start(*options, **kw):
    m = t.run("balloon fill=%d" % FILL, *(options or ("--balloon",)), memory="32", **kw)
    m.ready = m.expect(r"^balloon ready pages=(\d+) room=(\d+) features=(0x\w+).*\n")
    return m


def status(machine):
    machine.send("s")
    found = machine.expect(r"^balloon actual=(\d+) emptied=(\d+) hinted=(\d+) rewritten=(\d+) lost=(\d+) command=(\d+).*\n")
    return dict(zip(("actual", "emptied", "hinted", "rewritten", "lost", "command"), map(int, found.groups())))


def verify(machine):
    machine.send("v")
    found = machine.expect(r"^verify ok pages=(\d+) left=(\d+) lost=(\d+).*\n")
    return dict(zip(("pages", "left", "lost"), map(int, found.groups())))


def arrive(destination):
    """The guest has come, and has heard that it may have its pages back."""
    destination.expect(r"^balloon command=1\s")
    return verify(destination)


def migrate(source, destination, **parameters):
    """The report; the source may have ended when it is there."""
    source.qmp.run("migrate-set-parameters", **parameters)
    source.qmp.run("migrate", uri=destination.uri)
    end = source.qmp.event("MIGRATION", match=lambda d: "x-info" in d)
    return end["data"]["x-info"]


def resident(machine):
    with open("/proc/%d/status" % machine.process.pid) as f:
        return int(next(line for line in f if line.startswith("VmRSS")).split()[1]) * 1024


@t.test
def inflate_deflate_and_the_event():
    m = start()
    t.same(m.qmp.run("query-balloon")["actual"], 32 * MIB, "RAM before")
    before = resident(m)
    m.qmp.run("balloon", value=24 * MIB)
    m.qmp.event("BALLOON_CHANGE", match=lambda d: d["actual"] == 24 * MIB)
    t.same(m.qmp.run("query-balloon")["actual"], 24 * MIB, "RAM with 8 MiB in the balloon")
    t.check(resident(m) < before + 4 * MIB, "the balloon's 8 MiB have not been given back: %d KiB before, %d now" %
            (before >> 10, resident(m) >> 10))
    t.same(status(m)["actual"], 8 * MIB // 4096, "pages that the guest has given")
    stats = t.wait_until(lambda: m.qmp.run("query-balloon")["x-stats"], "statistics")
    t.same(sorted(stats), ["stat-free-memory", "stat-total-memory"], "names of statistics")
    # More than the guest can give, then all back.
    m.qmp.run("balloon", value=1)
    t.wait_until(lambda: status(m)["actual"] == int(m.ready[2]), "the guest to give all it can")
    m.qmp.run("balloon", value=1 << 40)
    m.qmp.event("BALLOON_CHANGE", match=lambda d: d["actual"] == 32 * MIB)
    t.same(status(m)["emptied"], int(m.ready[2]), "pages that came back empty")
    verify(m)


@t.test
def a_balloon_in_a_shared_file_and_in_huge_pages():
    m = start("--balloon", "--memory-backing", "shared")
    before = resident(m)
    m.qmp.run("balloon", value=24 * MIB)
    m.qmp.event("BALLOON_CHANGE", match=lambda d: d["actual"] == 24 * MIB)
    t.check(resident(m) < before + 4 * MIB, "the balloon's 8 MiB have not been given back: %d KiB before, %d now" %
            (before >> 10, resident(m) >> 10))
    m.qmp.run("balloon", value=32 * MIB)
    m.qmp.event("BALLOON_CHANGE", match=lambda d: d["actual"] == 32 * MIB)
    t.same(status(m)["emptied"], 8 * MIB // 4096, "pages that came back empty")
    verify(m)
    m.kill()
    with huge_pages(24) as reason:
        if reason:
            return reason
        m = start("--balloon", "--memory-backing", "hugetlb")
        m.qmp.run("balloon", value=24 * MIB)
        m.qmp.event("BALLOON_CHANGE", match=lambda d: d["actual"] == 24 * MIB)
        m.qmp.run("balloon", value=32 * MIB)
        m.qmp.event("BALLOON_CHANGE", match=lambda d: d["actual"] == 32 * MIB)
        # They cannot be given one by one, and so are as they were.
        t.same(status(m)["emptied"], 0, "pages that came back empty")
        verify(m)
        m.kill()


@t.test
def balloon_without_one_and_of_no_size():
    m = t.run("dirty fill=1 ws=0 idle=1")
    for command, arguments in (("balloon", {"value": MIB}), ("query-balloon", {})):
        try:
            m.qmp.run(command, **arguments)
            raise t.Failure(command + " without a balloon did something")
        except t.QmpError as e:
            t.check("--balloon" in str(e), "the refusal says: %s" % e)
    m = start()
    for value in (0, -1, "1"):
        try:
            m.qmp.run("balloon", value=value)
            raise t.Failure("a size of %r was taken" % value)
        except t.QmpError:
            pass


@t.test
def hinted_pages_are_not_sent():
    source = start()
    destination = t.receive()
    report = migrate(source, destination, **SLOW)
    t.same((report["status"], report.get("error-desc")), ("completed", None), "the migration")
    hinted = report["x-ferry"]["pages-hinted"]
    # All but a last few, which came when their piece was under way.
    t.check(PAGES // 2 - 256 <= hinted <= PAGES // 2, "%d pages hinted" % hinted)
    found = arrive(destination)
    t.check(found["lost"] >= LEFT - 128, "only %d of %d pages were really left out" % (found["lost"], LEFT))
    t.same(found["left"], 0, "pages still with the device")
    destination.send("q")
    destination.expect("^PASS balloon")
    # The same without hints: verification sees all RAM, so nothing may be left out.
    source = start()
    destination = t.receive()
    whole = migrate(source, destination, x_verify=True, **SLOW)
    t.same((whole["status"], whole["x-ferry"]["pages-hinted"]), ("completed", 0), "the migration with x-verify")
    verified = verify(destination)
    t.same((verified["left"], verified["lost"]), (0, 0), "pages hinted, and lost, with x-verify")
    # Fewer bytes: of the pages that were hinted half was sent after all, for the guest took it back.
    saved = whole["ram"]["transferred"] - report["ram"]["transferred"]
    t.check(saved >= LEFT // 4 * 4096, "%d bytes sent with hints, %d without" %
            (report["ram"]["transferred"], whole["ram"]["transferred"]))


@t.test
def cancel_then_retry_then_again():
    source = start()
    destination = t.receive()
    source.qmp.run("migrate-set-parameters", max_bandwidth=2 * MIB)
    source.qmp.run("migrate", uri=destination.uri)
    source.expect(r"^balloon command=([2-9]|\d\d+)\s")
    t.wait_until(lambda: source.qmp.run("query-migrate")["x-ferry"]["pages-hinted"] > LEFT, "hints")
    source.qmp.run("migrate_cancel")
    t.same(t.migration_end(source)["status"], "cancelled", "status of the migration")
    # It stayed: all of its pages keep what they held.
    found = arrive(source)
    t.same((found["left"], found["lost"]), (0, 0), "pages hinted, and lost, after the cancel")
    for _ in range(2):
        destination = t.receive()
        report = migrate(source, destination, **SLOW)
        t.same((report["status"], report.get("error-desc")), ("completed", None), "the migration")
        hinted = report["x-ferry"]["pages-hinted"]
        t.check(hinted > LEFT, "the retry was told of %d free pages only" % hinted)
        lost = found["lost"]
        found = arrive(destination)
        # Half of what was hinted in time is left to the device, and so left out.
        t.check(found["lost"] - lost >= hinted // 2 - 128, "%d of %d hinted pages left out" % (found["lost"] - lost, hinted))
        source = destination
    rewritten = status(source)["rewritten"]
    t.wait_until(lambda: status(source)["rewritten"] > rewritten, "the guest to go on")


@t.test
def the_balloon_moves_with_the_guest():
    source = start()
    source.qmp.run("balloon", value=26 * MIB)
    source.qmp.event("BALLOON_CHANGE", match=lambda d: d["actual"] == 26 * MIB)
    destination = t.receive()
    t.same(migrate(source, destination)["status"], "completed", "status of the migration")
    arrive(destination)
    t.same(destination.qmp.run("query-balloon")["actual"], 26 * MIB, "RAM there")
    destination.qmp.run("balloon", value=32 * MIB)
    destination.qmp.event("BALLOON_CHANGE", match=lambda d: d["actual"] == 32 * MIB)
    t.same(status(destination)["emptied"], 6 * MIB // 4096, "pages that came back empty")


t.main()
