#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""The guest goes before its memory, and finds all of it: over every channel, for every kind of RAM,
whatever breaks on the way. The guest checks its memory itself, all the time and in the end; x-verify
cannot, for the machine is never whole on one side."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import ferrytest as t

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
        t.same(source.wait(), 0, "exit status of the source")
        t.same(source.stderr(), "", "stderr of the source")
        info = completed(destination)
        t.check(info["ram"]["postcopy-requests"] > 0, "pages were asked for")
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


if __name__ == "__main__":
    t.main()
