#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Faults: whatever breaks, and whenever, one side has the guest and only one. Before COMMIT that is the source,
whose guest goes on as if nothing had happened and can be migrated by the next attempt; from COMMIT on it is not.
Both sides name what was wrong, and nothing is left behind.

The source boots once a test and survives fault after fault; each time a proxy does the harm."""

import os
import signal
import socket
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import ferrytest as t
from checks import (arrived, at_home, both_named, dirty, end, given_up, gone, grab, guest_time, held, locked, make_disk,
                    named_error, owns_disk, receiver, said, stands_still, start, status, verify)
from wire import CUT, Proxy, cut_after, forget, hold, kill, split, stall

# So little at a time that RAM goes in several records.
SLOW = dict(max_bandwidth=24 << 20, x_verify=True)
# Every step of the protocol as the proxy sees it: a record, and which of its name.
BEFORE_COMMIT = [("HELLO", 1), ("HELLO", 2), ("MACHINE", 1), ("ACCEPT", 1), ("RAM", 1), ("RAM", 2), ("STOPPED", 1),
                 ("STATE", 1), ("LOADED", 1)]


def arrives(source, **parameters):
    """After all that went wrong, a migration that succeeds."""
    destination = receiver()
    start(source, destination.uri, x_deadline=0, **parameters)
    t.same(source.wait(), 0, "exit status of the source")
    verify(destination)
    return destination


# --- nobody there ----------------------------------------------------------------------------------

def unreachable(folder):
    """URIs that lead nowhere, and what the error must name."""
    def path(name):
        return os.path.join(folder, name)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path("dead"))
    open(path("file"), "w").close()
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    return [("unix:" + path("none"), "No such file"), ("unix:" + path("dead"), "nobody listens"),
            ("unix:" + path("file"), "no socket"), ("tcp:%s:%d" % (t.place.address, port), "refused"),
            ("tcp:no-such-host.invalid:4444", "no-such-host.invalid"), ("tcp:127.0.0.1:99999", "port"),
            ("fd:999", "999"), ("carrier-pigeon:4", "carrier-pigeon"), ("unix:", "path")]


@t.test
def nobody_listens_or_the_name_does_not_resolve():
    source = dirty()
    source.qmp.run("query-migrate")
    before = held(source)
    for uri, word in unreachable(tempfile.mkdtemp(dir=t.scratch)):
        start(source, uri)
        report = end(source)
        t.check(uri in report["error-desc"], "%s is not in the error: %s" % (uri, report["error-desc"]))
        named_error(report, word, machine=source)
        at_home(source, before, check=False)
    verify(source)
    arrives(source)


@t.test
def the_port_is_filtered():
    source = dirty()
    source.qmp.run("query-migrate")
    before = held(source)
    with t.place.filtered() as uri:
        start(source, uri, x_deadline=500)
        report = end(source)
        named_error(report, uri, machine=source)
        t.check(report["total-time"] < 5000 * t.SLOWNESS, "it took %d ms" % report["total-time"])
    at_home(source, before)


# --- one side dies -----------------------------------------------------------------------------------

@t.test
def destination_killed_at_every_step():
    source = dirty()
    source.qmp.run("query-migrate")
    before = held(source)
    for name, nth in BEFORE_COMMIT:
        destination = receiver()
        # Its last record does not arrive any more; of those before it does not matter.
        proxy = Proxy(destination.uri, name, kill(destination, CUT if name == "LOADED" else None), nth)
        start(source, proxy.uri, **SLOW)
        named_error(end(source), "closed", machine=source)
        at_home(source, before, check=name in ("RAM", "STATE", "LOADED"))
    arrives(source)


@t.test
def source_killed_at_every_step():
    saved = os.path.join(t.scratch, "saved")
    source = dirty()
    t.same(t.ferry("save", source.control, saved)[0], 0, "status of ferry save")
    source.kill()
    for name, nth in BEFORE_COMMIT + [("COMMIT", 1)]:
        source = arrived(t.Machine("restore", saved))
        destination = receiver()
        proxy = Proxy(destination.uri, name, kill(source, CUT), nth)
        start(source, proxy.uri, **SLOW)
        proxy.wait()
        given_up(destination, name != "HELLO", "closed")
        if name == "HELLO":
            # The next source is as welcome.
            another = arrived(t.Machine("restore", saved))
            start(another, destination.uri)
            t.same(another.wait(), 0, "exit status of the next source")
            verify(destination)


@t.test
def source_killed_once_COMMIT_is_sent():
    source = dirty()
    destination = receiver()
    proxy = Proxy(destination.uri, "COMMIT", kill(source))
    start(source, proxy.uri, **SLOW)
    destination.qmp.event("RESUME")
    verify(destination)


@t.test
def destination_told_to_end_while_it_receives():
    source = dirty()
    source.qmp.run("query-migrate")
    before = held(source)
    destination = receiver()
    proxy = Proxy(destination.uri, "RAM", hold)
    start(source, proxy.uri, **SLOW)
    proxy.wait()
    destination.process.terminate()
    gone(destination)                           # a machine that has not arrived is no success
    proxy.release()
    named_error(end(source), machine=source)
    at_home(source, before)
    arrives(source)


# --- the connection breaks -----------------------------------------------------------------------------

def handed_over(source, report):
    """COMMIT was sent, and no word came: a person has to decide, and has to mean it."""
    named_error(report, "the other side to run the guest", "a person", machine=source)
    t.check(report["x-ferry"]["handed-over"], "the report does not say handed-over")
    t.same(status(source), "handed-over", "status of the source")
    refused(source, "handed over")
    t.check("was handed over" in t.ferry("status", source.control)[1], "ferry status does not say it")


def refused(source, word, **arguments):
    try:
        source.qmp.run("cont", **arguments)
    except t.QmpError as e:
        t.check(word in str(e), "%r is not in the refusal: %s" % (word, e))
        return
    raise t.Failure("cont %r was not refused" % arguments)


@t.test
def cut_after_every_record():
    source = dirty()
    source.qmp.run("query-migrate")
    before = held(source)
    for name, nth in BEFORE_COMMIT:
        destination = receiver()
        proxy = Proxy(destination.uri, name, cut_after, nth)
        start(source, proxy.uri, **SLOW)
        report = end(source)
        given_up(destination, (name, nth) != ("HELLO", 1), "closed")
        # After LOADED the source may have sent COMMIT already, into a connection that is cut: it cannot know.
        if name == "LOADED" and report["x-ferry"]["handed-over"]:
            source.qmp.run("cont", force=True)
        else:
            named_error(report, "closed", machine=source)
        at_home(source, before, check=name in ("RAM", "STATE", "LOADED"))
    destination = receiver()
    proxy = Proxy(destination.uri, "COMMIT", cut_after)
    start(source, proxy.uri, **SLOW)
    handed_over(source, end(source))
    stands_still(source, lambda: verify(destination))


@t.test
def cut_inside_records():
    source = dirty()
    source.qmp.run("query-migrate")
    before = held(source)
    # Which record, and how much of it arrives.
    for name, nth, part in (("HELLO", 1, lambda r: 31), ("HELLO", 2, lambda r: 33), ("MACHINE", 1, lambda r: 1),
                            ("MACHINE", 1, lambda r: len(r) // 2), ("MACHINE", 1, lambda r: len(r) - 1),
                            ("RAM", 1, lambda r: 32 + 3), ("RAM", 1, lambda r: 32 + len(r.meta)),
                            ("RAM", 1, lambda r: 32 + len(r.meta) + 4096),
                            ("RAM", 2, lambda r: len(r) - 1), ("STATE", 1, lambda r: len(r) // 3),
                            ("LOADED", 1, lambda r: 16)):
        destination = receiver()
        proxy = Proxy(destination.uri, name, lambda proxy, record: part(record), nth)
        start(source, proxy.uri, **SLOW)
        named_error(end(source), machine=source)
        given_up(destination, name != "HELLO")
        at_home(source, before, check=name == "STATE")
        t.check(not proxy.problem, "what passed is no stream: %r" % proxy.problem)
    arrives(source)


@t.test
def stalled_at_every_record():
    deadline = int(250 * max(1, t.SLOWNESS / 4))
    source = dirty()
    source.qmp.run("query-migrate")
    before = held(source)
    for name, nth in BEFORE_COMMIT + [("COMMIT", 1)]:
        destination = receiver()
        destination.qmp.run("migrate-set-parameters", x_deadline=deadline)
        proxy = Proxy(destination.uri, name, stall, nth)
        start(source, proxy.uri, x_deadline=deadline, **SLOW)
        report = end(source)
        given_up(destination, name != "HELLO", "within")
        proxy.kill()
        if name == "COMMIT":
            handed_over(source, report)
            # A person has looked: the other side ended without it.
            source.qmp.run("cont", force=True)
        else:
            named_error(report, "within", machine=source)
        at_home(source, before, check=name in ("RAM", "STATE", "COMMIT"))
    arrives(source)


@t.test
def tiny_buffers_and_interrupted_calls():
    ours, theirs = socket.socketpair()
    for s in (ours, theirs):
        s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    destination = t.receive("fd:%d" % theirs.fileno())
    source = dirty(fds=[ours.fileno()])
    theirs.close()
    start(source, "fd:%d" % ours.fileno(), x_verify=True, max_bandwidth=8 << 20)
    ours.close()
    # Calls with a timeout are interrupted by a stop and continuation (signal(7)).
    while not source.ended():
        for machine in (source, destination):
            machine.process.send_signal(signal.SIGSTOP)
            machine.process.send_signal(signal.SIGCONT)
    t.same(source.wait(), 0, "exit status of the source")
    verify(destination)


# --- the last step ---------------------------------------------------------------------------------------

@t.test
def the_answer_to_COMMIT_is_lost():
    disk = make_disk()
    source = dirty("fill=2 ws=1 rate=20", "--disk", disk)
    destination = receiver()
    proxy = Proxy(destination.uri, "RUNNING", forget)
    start(source, proxy.uri, x_deadline=int(1000 * max(1, t.SLOWNESS / 4)), **SLOW)
    report = end(source)
    proxy.kill()
    handed_over(source, report)
    # Never two: this one stands still while that one works, and cannot get the disk back.
    stands_still(source, lambda: verify(destination))
    t.same((owns_disk(source), owns_disk(destination)), (False, True), "who owns the disk")
    refused(source, "lock", force=True)
    t.same(status(source), "handed-over", "status of the source")
    stands_still(source, lambda: verify(destination))
    destination.kill()
    source.qmp.run("cont", force=True)
    verify(source)
    t.check(owns_disk(source), "the source runs without owning its disk")


@t.test
def COMMIT_is_lost():
    disk = make_disk()
    source = dirty("fill=2 ws=1 rate=20", "--disk", disk)
    source.qmp.run("query-migrate")
    before = held(source)
    destination = receiver()
    proxy = Proxy(destination.uri, "COMMIT", hold)
    start(source, proxy.uri, **SLOW)
    proxy.wait()
    # Neither runs as long as nobody may.
    times = guest_time(source), guest_time(destination)
    for _ in range(20):
        t.same((status(source), status(destination)), ("finish-migrate", "inmigrate"), "who has the guest")
    t.same((guest_time(source), guest_time(destination)), times, "ns that the guest ran")
    proxy.cut()
    proxy.kill()
    report = end(source)
    handed_over(source, report)
    gone(destination)
    t.check(not locked(disk), "the disk of a guest that nobody runs is locked")
    source.qmp.run("cont", force=True)
    at_home(source, before)
    t.check(owns_disk(source), "the source runs without owning its disk")


@t.test
def the_disk_comes_back_after_a_failure_in_the_last_step():
    disk = make_disk()
    source = dirty("fill=2 ws=1 rate=20", "--disk", disk)
    source.qmp.run("query-migrate")
    before = held(source)
    destination = receiver()
    proxy = Proxy(destination.uri, "LOADED", stall)
    start(source, proxy.uri, **SLOW)
    proxy.wait()
    t.same((owns_disk(source), owns_disk(destination)), (False, True), "who owns the disk at LOADED")
    proxy.release()
    named_error(end(source), machine=source)
    gone(destination)
    at_home(source, before)
    t.check(owns_disk(source), "the source has not taken its disk back")
    destination = arrives(source)
    t.check(owns_disk(destination), "the destination runs without owning its disk")


@t.test
def somebody_else_takes_the_disk_in_the_last_step():
    disk = make_disk()
    source = dirty("fill=2 ws=1 rate=20", "--disk", disk)
    source.qmp.run("query-migrate")
    before = held(source)
    destination = receiver()
    proxy = Proxy(destination.uri, "STATE", hold)
    start(source, proxy.uri, **SLOW)
    proxy.wait()
    with grab(disk):
        proxy.release()
        gone(destination)
        said(destination, "disk", "lock")
    named_error(end(source), "disk", "lock", machine=source)
    at_home(source, before)
    t.check(owns_disk(source), "the source has not taken its disk back")
    arrives(source)


# --- a destination that lacks something --------------------------------------------------------------------

def lacking(disk):
    """What a host lacks: words that the error has, options and wrapping of receive."""
    small = make_disk("small", 1 << 19)
    yield ("memory",), [], ["prlimit", "--as=%d" % (160 << 20)]
    yield ("open files",), [], ["prlimit", "--nofile=16"]
    yield ("small", "size"), ["--disk", small], []
    if os.geteuid() == 0:
        yield ("/dev/kvm",), [], ["unshare", "--mount", "sh", "-c", 'mount --bind /dev/null /dev/kvm; exec "$@"',
                                  "sh"]
    os.unlink(disk)
    yield (disk, "No such file"), [], []


@t.test
def destination_without_memory_descriptors_kvm_or_disk():
    disk = os.path.join(t.scratch, "link")      # which can be removed, the source keeping the file
    os.symlink(make_disk(), disk)
    source = dirty("fill=1 ws=1 rate=10", "--disk", disk, memory="256")
    source.qmp.run("query-migrate")
    before = held(source)
    for words, options, wrap in lacking(disk):
        destination = receiver(*options, wrap=wrap)
        proxy = Proxy(destination.uri)
        start(source, proxy.uri, **SLOW)
        both_named(end(source), source, destination, *words)
        t.same(proxy.count("RAM"), 0, "records of RAM that were sent")
        at_home(source, before, check=False)
    verify(source)


# --- saved machines ------------------------------------------------------------------------------------------

def restore_fails(path, data, what):
    with open(path, "wb") as f:
        f.write(data)
    for command in (("inspect", path), ("restore", path, "--serial", "none")):
        status, _, err = t.ferry(*command)
        t.same(status, 1, "status of ferry %s of %s" % (command[0], what))
        t.check(err.startswith("ferry: ") and err.count("\n") == 1, "ferry %s of %s says %r" % (command[0], what, err))


def damaged(data):
    """Each record cut at its edges and within its parts, and bytes of each part changed."""
    for record in split(data):
        meta, name = len(record.meta), record.name
        for n in sorted({0, 1, 31, 32, 32 + meta // 2, 32 + meta, len(record) // 2, len(record) - 1}):
            if n < len(record):
                yield "%s cut at byte %d" % (name, n), data[:record.at + n]
        for n in [5, 11, 15, 20, 27, 31] + ([32 + meta // 2] if meta else []):
            at = record.at + n
            yield "%s changed at byte %d" % (name, n), data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1:]


@t.test
def truncated_and_changed_saved_machines():
    path, bad = os.path.join(t.scratch, "saved"), os.path.join(t.scratch, "bad")
    source = dirty("fill=0 ws=1 rate=10", memory="4")
    t.same(t.ferry("save", source.control, path)[0], 0, "status of ferry save")
    source.kill()
    with open(path, "rb") as f:
        cases = list(damaged(f.read()))
    # Starting processes is what takes time; unit tests try every byte.
    for what, data in cases[::5 if t.SLOWNESS > 4 else 1]:
        restore_fails(bad, data, what)
    t.same([name for name in os.listdir(t.scratch) if name.endswith(".partial")], [], "files left behind")


if __name__ == "__main__":
    t.main()
