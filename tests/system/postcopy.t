#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""The guest goes before its memory, and finds all of it: over every channel, for every kind of RAM,
whatever breaks on the way. The guest checks its memory itself, all the time and in the end; x-verify
cannot, for the machine is never whole on one side."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import ferrytest as t
from wire import Proxy, cut, kill

PASSED = 0x2A << 1 | 1


def dirty(options="fill=8 ws=4 rate=40 content=mixed", memory="32", **kw):
    m = t.run("dirty " + options, memory=memory, **kw)
    m.expect("^dirty ready.*\n")
    return m


def postcopy(source, uri, rounds="0", **parameters):
    source.qmp.run("migrate-set-capabilities",
                   capabilities=[{"capability": "postcopy-ram", "state": True}])
    source.qmp.run("migrate-set-parameters", x_postcopy=rounds, **parameters)
    source.qmp.run("migrate", uri=uri)


def completed(machine):
    t.wait_until(lambda: machine.qmp.run("query-migrate")["status"] == "completed",
                 "all pages have come")
    return machine.qmp.run("query-migrate")


def finish(machine, program="dirty"):
    machine.send("v")
    machine.expect(r"^verify ok.*\n")
    machine.send("q")
    machine.expect("^PASS " + program)
    t.same(machine.wait(), PASSED, "exit status of the destination")
    t.same(machine.stderr(), "", "stderr of the destination")


@t.test
def at_once_over_unix_and_tcp():
    for uri in (None, "tcp:127.0.0.1:0"):
        source, destination = dirty(), t.receive(uri)
        postcopy(source, destination.uri)
        info = source.qmp.event("MIGRATION", match=lambda d: d["status"] == "completed")
        blackout = info["data"]["x-info"]["x-ferry"]["blackout-ns"] / 1e6
        t.same(source.wait(), 0, "exit status of the source")
        t.same(source.stderr(), "", "stderr of the source")
        info = completed(destination)
        print("# blackout %.1f ms; %d faults, p50 %.2f ms, p99 %.2f ms"
              % (blackout, info["ram"]["postcopy-requests"], info["x-ferry"]["fault-p50-ns"] / 1e6,
                 info["x-ferry"]["fault-p99-ns"] / 1e6))
        t.check(info["ram"]["postcopy-requests"] > 0, "pages were asked for")
        finish(destination)


@t.test
def a_guest_that_writes_as_fast_as_it_can():
    """By rounds it would never fit; both blackouts are printed, to compare."""
    for rounds in ("auto", None):
        source, destination = dirty("fill=8 ws=16 rate=0 content=random"), t.receive("tcp:127.0.0.1:0")
        if rounds:
            postcopy(source, destination.uri, rounds, downtime_limit=10)
        else:
            source.qmp.run("migrate-set-parameters", downtime_limit=10, x_timeout=5,
                           x_on_timeout="force")
            source.qmp.run("migrate", uri=destination.uri)
        info = source.qmp.event("MIGRATION", match=lambda d: d["status"] == "completed")
        print("# %s: blackout %.1f ms" % ("postcopy" if rounds else "precopy, forced",
                                          info["data"]["x-info"]["x-ferry"]["blackout-ns"] / 1e6))
        t.same(source.wait(), 0, "exit status of the source")
        completed(destination)
        finish(destination)


@t.test
def where_slowing_it_down_would_cost_too_much():
    """auto-converge and postcopy together, as ferry migrate --converge auto asks for."""
    source, destination = dirty("fill=8 ws=16 rate=0 content=random"), t.receive("tcp:127.0.0.1:0")
    source.qmp.run("migrate-set-capabilities", capabilities=[{"capability": "auto-converge", "state": True}])
    postcopy(source, destination.uri, "auto", downtime_limit=10, max_bandwidth=4 << 20)
    source.qmp.event("MIGRATION", match=lambda d: d["status"] == "postcopy-active")
    info = source.qmp.run("query-migrate")
    t.check(info.get("cpu-throttle-percentage", 0) == 0, "nobody is slowed any more: %r" % info)
    t.same(source.wait(), 0, "exit status of the source")
    completed(destination)
    finish(destination)


@t.test
def after_rounds_with_two_vcpus_and_both_kinds_of_ram():
    for options in ((), ("--memory-backing", "shared")):
        source = t.run("smp rate=50 rounds=1000000", *options, memory="32", cpus="2")
        destination = t.receive("tcp:127.0.0.1:0")
        postcopy(source, destination.uri, "1", downtime_limit=0)
        t.same(source.wait(), 0, "exit status of the source")
        completed(destination)
        destination.send("q")
        destination.expect("^PASS smp")
        t.same(destination.wait(), PASSED, "exit status of the destination")


def status(machine):
    """By a connection of its own: the loop thread may sleep on a page."""
    qmp = t.Qmp(machine.control)
    try:
        return qmp.run("query-migrate")["status"]
    finally:
        qmp.close()


def under_way(mib=24):
    """Slowly enough that it can be caught."""
    source = dirty("fill=%d ws=2 rate=20 content=random" % mib, memory="64")
    destination = t.receive("tcp:127.0.0.1:0")
    destination.qmp.run("query-status")         # connected from before any pause
    postcopy(source, destination.uri, max_postcopy_bandwidth=1 << 20)
    t.wait_until(lambda: source.qmp.run("query-migrate")["status"] == "postcopy-active",
                 "the guest is there")
    return source, destination


@t.test
def broken_and_resumed_elsewhere():
    source, destination = under_way()
    source.qmp.run("migrate-pause")
    for machine in (source, destination):
        t.wait_until(lambda: status(machine) == "postcopy-paused", "both sides notice")
    # The guest touches all of its memory, and sleeps; who wants to stop it sleeps, too, and that is
    # the thread which has served the control socket so far.
    destination.send("v")
    destination.qmp.sock.sendall(b'{"execute": "stop"}\n')
    # At another address, by a new connection: whatever the loop thread does.
    qmp = t.Qmp(destination.control)
    try:
        qmp.run("cont")
        t.check(False, "a command that needs the machine has to wait")
    except t.QmpError:
        pass
    uri = qmp.run("migrate-recover", uri="tcp:127.0.0.1:0")["x-uri"]
    qmp.close()
    source.qmp.run("migrate-set-parameters", max_postcopy_bandwidth=0)
    source.qmp.run("migrate", uri=uri, resume=True)
    t.same(source.wait(), 0, "exit status of the source")
    destination.qmp.event("STOP")
    destination.qmp.read()                      # the answer to it
    completed(destination)
    destination.qmp.run("cont")
    destination.expect(r"^verify ok.*\n")


@t.test
def the_source_dies_and_the_destination_says_so():
    source, destination = under_way()
    source.process.kill()
    t.wait_until(lambda: status(destination) == "postcopy-paused", "the destination notices")
    qmp = t.Qmp(destination.control)
    info = qmp.run("query-migrate")
    t.check("pages" in info["error-desc"] or "closed" in info["error-desc"], info["error-desc"])
    qmp.close()


@t.test
def the_destination_dies_and_the_source_never_runs():
    source, destination = under_way()
    destination.process.kill()
    t.wait_until(lambda: status(source) == "postcopy-paused", "the source notices")
    t.same(source.qmp.run("query-status")["status"], "postmigrate", "the source's guest")
    for arguments in ({}, {"force": True}):
        try:
            source.qmp.run("cont", **arguments)
            t.check(False, "the guest must not run here")
        except t.QmpError:
            pass
    source.qmp.run("quit")
    source.wait()


@t.test
def where_no_one_knows_whether_it_went_a_person_decides():
    """COMMIT is lost, and the destination with it: all of the guest is here still."""
    source, destination = dirty(), t.receive("tcp:127.0.0.1:0")
    proxy = Proxy(destination.uri, "COMMIT", kill(destination, cut), connections=3)
    postcopy(source, proxy.uri)
    t.wait_until(lambda: source.qmp.run("query-migrate")["status"] == "postcopy-paused", "the source notices")
    t.same(source.qmp.run("query-status")["status"], "handed-over", "the source's guest")
    for arguments, words in (({}, "force=true"), ({"force": True}, "migrate_cancel")):
        try:
            source.qmp.run("cont", **arguments)
            t.check(False, "the guest must not run while the other side may come back for it")
        except t.QmpError as e:
            t.check(words in str(e), str(e))
    try:
        source.qmp.run("migrate_cancel")
        t.check(False, "it takes more than a Ctrl-C to give up what may run on the other side")
    except t.QmpError:
        pass
    source.qmp.run("migrate_cancel", force=True)
    source.qmp.event("MIGRATION", match=lambda d: d["status"] == "failed")
    t.same(source.qmp.run("query-status")["status"], "handed-over", "the source's guest")
    source.qmp.run("cont", force=True)
    source.send("v")
    source.expect(r"^verify ok.*\n")
    source.send("q")
    source.expect("^PASS dirty")
    t.same(source.wait(), PASSED, "exit status of the source")


if __name__ == "__main__":
    t.main()
