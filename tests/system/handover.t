#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""RAM that is handed over by descriptor, from one ferry to another on one host."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import ferrytest as t

SHARED = ("--memory-backing", "shared")
GIVEN = 64 << 20


def verify(machine):
    machine.send("v")
    machine.expect(r"verify ok pages=\d+")


def move(source, destination, **parameters):
    """As t.migrate, but the source may have ended when it is over: the event has it all."""
    source.qmp.run("migrate-set-parameters", **parameters)
    source.qmp.run("migrate", uri=destination.uri)
    return source.qmp.event("MIGRATION", match=lambda d: "x-info" in d)["data"]["x-info"]


def ram(info):
    return info["x-ferry"]["ram-given"], info["ram"]["normal"]


@t.test
def ram_is_handed_over_and_holds_what_it_held():
    source = t.run("dirty fill=32 ws=8 rate=100", *SHARED)
    source.expect("dirty ready")
    for _ in range(3):
        destination = t.receive()
        info = move(source, destination, x_verify=True)
        t.same(info["status"], "completed", "migration: %r" % info)
        t.same(ram(info), (GIVEN, 0), "RAM given, pages sent")
        t.check(info["x-ferry"]["blackout-method"] == "clock", "blackout: %r" % info)
        t.same(source.wait(), 0, "source")
        verify(destination)
        source = destination
    source.send("q")
    t.same(source.wait(), 85, "the guest's own status")


@t.test
def ram_is_sent_where_it_cannot_be_handed_over_or_shall_not():
    source = t.run("dirty fill=16 ws=4 rate=100", *SHARED)
    source.expect("dirty ready")
    first, second = t.receive("tcp:127.0.0.1:0", "--trust-source"), t.receive()
    for destination in first, second:
        info = move(source, destination, x_send_ram=destination is second)
        t.same(info["status"], "completed", "migration: %r" % info)
        t.same(ram(info)[0], 0, "RAM given")
        t.check(ram(info)[1] > 4096, "pages sent: %r" % info)
        source = destination
        verify(source)


@t.test
def a_paused_guest_is_not_written_to_by_a_destination_that_gives_up():
    source = t.run("dirty fill=16 ws=4 rate=100", *SHARED)
    source.expect("dirty ready")
    for _ in range(3):
        # It has no such disk, or ends without a word: both before COMMIT.
        destination = t.receive(None, "--disk", "/dev/null")
        info = move(source, destination)
        t.same(info["status"], "failed", "migration: %r" % info)
        t.check(destination.wait() != 0, "a destination that failed")
        verify(source)


t.main()
