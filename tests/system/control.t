#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""The control socket of a running machine: QMP by a plain client, ferry status and ferry ctl."""

import json
import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import ferrytest as t


def words(machine):
    """What ferry status says."""
    status, out, err = t.ferry("status", machine.control)
    t.same((status, err), (0, ""), "ferry status")
    return out


def ctl(machine, *arguments):
    status, out, err = t.ferry("ctl", machine.control, *arguments)
    t.same((status, err), (0, ""), "ferry ctl " + " ".join(arguments))
    return json.loads(out)


@t.test
def greets_as_qmp_does():
    m = t.run("tick seconds=1000")
    version = m.qmp.greeting["QMP"]["version"]
    t.same(sorted(version["qemu"]), ["major", "micro", "minor"], "version")
    t.same(m.qmp.greeting["QMP"]["capabilities"], [], "capabilities")
    t.same(m.qmp.run("query-version"), version, "query-version")


@t.test
def tells_what_the_machine_is():
    m = t.run("tick seconds=1000", "--name", "böse", cpus="2", memory="64")
    t.same(m.qmp.run("query-name"), {"name": "böse"}, "query-name")
    t.same(m.qmp.run("query-memory-size-summary"), {"base-memory": 64 << 20}, "memory")
    cpus = m.qmp.run("query-cpus-fast")
    t.same([c["cpu-index"] for c in cpus], [0, 1], "vCPUs")
    for cpu in cpus:
        t.same(cpu["target"], os.uname().machine, "target")
        task = "/proc/%d/task/%d" % (m.process.pid, cpu["thread-id"])
        t.check(os.path.exists(task), task + " is no thread of ferry")
    said = words(m)
    for word in ("böse", "is running", "2", "64 MiB"):
        t.check(word in said, "ferry status lacks %r: %s" % (word, said))


@t.test
def stop_holds_the_guest_and_cont_lets_it_go():
    m = t.run("tick")
    t.check(m.qmp, "a client that listens from the start")
    m.expect("^tick .*\n")
    t.same(ctl(m, "stop"), {}, "stop")
    t.same(m.qmp.event("STOP", "RESUME")["event"], "STOP", "event")
    t.check("is paused" in words(m), "ferry status: " + words(m))
    t.same(m.qmp.run("query-status"), {"running": False, "status": "paused"}, "query-status")
    t.same(ctl(m, "cont", "force=false"), {}, "cont")
    t.same(m.qmp.event("STOP", "RESUME")["event"], "RESUME", "event")
    m.expect("^tick .*\n")


@t.test
def reset_boots_again():
    m = t.run("tick")
    m.expect("^tick .*\n")
    m.qmp.run("system_reset")
    data = m.qmp.event("RESET")["data"]
    t.same(data, {"guest": False, "reason": "host-qmp-system-reset"}, "RESET")
    m.expect("^tick .*\n")
    t.same(m.qmp.run("query-status")["status"], "running", "status")


@t.test
def a_guest_that_ended_is_kept_and_can_be_booted_again():
    m = t.run("hello", "--stay", "--paused")
    m.qmp.run("cont")
    m.expect("^PASS hello")
    data = m.qmp.event("SHUTDOWN")["data"]
    t.same(data, {"guest": True, "reason": "guest-shutdown"}, "SHUTDOWN")
    t.check("has ended" in words(m), "ferry status: " + words(m))
    try:
        m.qmp.run("cont")
        t.check(False, "cont went on with a guest that has ended")
    except t.QmpError as e:
        t.same(e.error["class"], "GenericError", "class")
        t.same(e.error["data"]["expected"], "system_reset first", "expected")
    m.qmp.run("system_reset")
    t.same(m.qmp.run("query-status")["status"], "paused", "status after the reset")
    m.qmp.run("cont")
    m.expect("^PASS hello")
    m.qmp.run("quit")
    t.same(m.wait(), 0, "exit status")


@t.test
def a_crash_is_told_as_one():
    m = t.run("hello end=triple", "--stay", "--paused")
    m.qmp.run("cont")
    t.same(m.qmp.event("GUEST_PANICKED")["data"], {"action": "pause"}, "GUEST_PANICKED")
    t.same(m.qmp.run("query-status")["status"], "internal-error", "status")
    t.check("has crashed" in words(m), "ferry status: " + words(m))


@t.test
def quit_and_signals_are_told_apart():
    m = t.run("tick")
    m.qmp.run("quit")
    t.same(m.qmp.event("SHUTDOWN")["data"], {"guest": False, "reason": "host-qmp-quit"}, "SHUTDOWN")
    t.same(m.wait(), 0, "exit status")
    m = t.run("tick")
    t.check(m.qmp, "QMP")
    m.process.terminate()
    t.same(m.qmp.event("SHUTDOWN")["data"], {"guest": False, "reason": "host-signal"}, "SHUTDOWN")
    t.same(m.wait(), 0, "exit status")


@t.test
def ctl_takes_json_and_words():
    m = t.run("tick seconds=1000")
    t.check(m.qmp, "the control socket is there")
    t.check({"name": "query-status"} in ctl(m, "query-commands"), "query-commands")
    for bad, naming in ((("cont", "force=maybe"), "force"), (("cont", "froce=true"), "froce"),
                        (("contt",), "contt")):
        status, out, err = t.ferry("ctl", m.control, *bad)
        t.same((status, out, err.count("\n")), (1, "", 1), "ctl " + " ".join(bad))
        t.check(err.startswith("ferry: ") and naming in err, err)
    t.same(ctl(m, "system_powerdown"), {}, "what a power button says")
    m.qmp.event("POWERDOWN")                       # the guest does not listen to it
    every = json.loads(t.ferry("status", m.control, "--json")[1])
    t.same(every["status"], {"running": True, "status": "running"}, "ferry status --json")


@t.test
def status_tells_of_a_migration():
    source = t.run("tick seconds=1000", "--stay")
    source.expect("^tick ")
    destination = t.receive()
    t.check("waits for a guest" in words(destination), words(destination))
    t.same(t.migrate(source, destination)["status"], "completed", "migration")
    said = words(source)
    for word in ("runs on the other side", "migration: completed", "stood still for"):
        t.check(word in said, "ferry status lacks %r: %s" % (word, said))
    t.check("is running" in words(destination), words(destination))
    try:
        source.qmp.run("cont", force=True)
        t.check(False, "cont made a second copy run")
    except t.QmpError as e:
        t.check("other side" in str(e), str(e))


@t.test
def answers_soon_while_the_guest_is_busy():
    m = t.run("smp seconds=1000", cpus="2")
    m.expect(r"\S")
    took = []
    for _ in range(200):
        started = time.monotonic()
        m.qmp.run("query-status")
        took.append(time.monotonic() - started)
    took.sort()
    # The rest of this machine is busy too, so the median is what says something.
    t.check(took[100] < 0.05, "the median answer took %.0f ms" % (took[100] * 1000))


t.main()
