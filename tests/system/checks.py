# SPDX-License-Identifier: BSD-2-Clause
"""What the protocol promises of the two machines after a migration, however it ended."""

import collections
import contextlib
import fcntl
import os
import re
import struct

import ferrytest as t

ENDS = ("completed", "failed", "cancelled")


def dirty(options="fill=2 ws=1 rate=20", *more, memory="16", **kw):
    """A guest that dirties memory and can tell whether it is still right."""
    m = t.run("dirty " + options, *more, memory=memory, **kw)
    m.expect("^dirty ready.*\n")
    return m


def verify(machine):
    """The guest runs, and its memory is as it left it."""
    machine.send("v")
    machine.expect(r"^verify ok.*\n")


def start(source, uri, **parameters):
    if parameters:
        source.qmp.run("migrate-set-parameters", **parameters)
    source.qmp.run("migrate", uri=uri)


def end(source):
    """Wait for the end of a migration, whichever; its report."""
    return source.qmp.event("MIGRATION", match=lambda d: d["status"] in ENDS)["data"]["x-info"]


def arrived(machine):
    """The guest of a receive or restore is there, and its migration is over."""
    t.wait_until(lambda: machine.ended() or machine.qmp.run("query-migrate").get("status") == "completed",
                 "the guest to arrive")
    t.check(not machine.ended(), "the process ended: " + machine.stderr())
    return machine


@contextlib.contextmanager
def huge_pages(wanted):
    """So many huge pages more in the host's pool meanwhile; yields why there are none, or None."""
    pool = "/proc/sys/vm/nr_hugepages"
    try:
        with open(pool) as f:
            kept = int(f.read())
        with open(pool, "w") as f:
            f.write(str(kept + wanted))
    except OSError as e:
        yield "no pool of huge pages: %s" % e
        return
    try:
        with open(pool) as f:
            yield None if int(f.read()) >= kept + wanted else "not enough huge pages to be had"
    finally:
        with open(pool, "w") as f:
            f.write(str(kept))


def status(machine):
    return machine.qmp.run("query-status")["status"]


# --- nothing left behind -------------------------------------------------------------------------

def held(machine):
    """What a process holds: descriptors by kind, and threads but those that the kernel adds."""
    kinds = collections.Counter()
    folder = "/proc/%d/" % machine.process.pid
    for fd in os.listdir(folder + "fd"):
        try:
            kinds[re.sub(r"\d+", "N", os.readlink(folder + "fd/" + fd))] += 1
        except (FileNotFoundError, ProcessLookupError):
            pass
    for thread in os.listdir(folder + "task"):
        try:
            with open(folder + "task/%s/comm" % thread) as f:
                kinds["thread"] += not f.read().startswith("iou-")
        except (FileNotFoundError, ProcessLookupError):
            pass
    return kinds


def same_held(machine, before):
    t.wait_until(lambda: held(machine) == before, "what the migration held to be given back; more: %r, less: %r" %
                 (dict(held(machine) - before), dict(before - held(machine))), 5)


def receiver(*options, **kw):
    """An empty destination whose events are listened to from the start."""
    machine = t.receive(None, *options, **kw)
    machine.qmp.run("query-status")
    return machine


def gone(machine):
    """A destination that failed has ended, with its reason, has left no socket, and has never run the guest."""
    t.same(machine.wait(), 1, "exit status of the destination")
    told = [event["event"] for event in machine.qmp.rest()]
    t.check("RESUME" not in told, "the destination ran the guest; its events: %r" % told)
    for path in (machine.control, machine.serial_path, machine.uri.partition("unix:")[2]):
        t.check(not path or not os.path.exists(path), path + " was left behind")


def waits_on(machine, *words, visit=0):
    """Somebody who is no source came, as the @visit-th from 0, and was named; the destination listens again."""
    t.wait_until(lambda: machine.ended() or len(machine.stderr().splitlines()) > visit, "the visitor to be named")
    said(machine, *words, "waiting for another")
    t.check(not machine.ended(), "the destination has ended")


def given_up(machine, heard, *words):
    """A destination whose source has failed has ended, too; or waits for another, if it has not @heard its HELLO."""
    if heard:
        gone(machine)
        said(machine, *words)
    else:
        waits_on(machine, *words)


# --- errors ----------------------------------------------------------------------------------------

def named_error(report, *words, machine=None):
    """The report of a failed migration says what failed, of which thing, and what was found; it has all of @words,
    and @machine has said the same on stderr."""
    t.same(report["status"], "failed", "status of the migration")
    sentence, error = report.get("error-desc", ""), report.get("x-error", {})
    for part in ("phase", "device", "got"):
        t.check(error.get(part), "the error has no %s: %r" % (part, error))
    for word in words:
        t.check(word.lower() in sentence.lower(), "%r is not in the error: %s" % (word, sentence))
    if machine:
        t.wait_until(lambda: "ferry: %s\n" % sentence in machine.stderr(), "stderr to say: " + sentence, 5)
    return error


def both_named(report, source, destination, *words):
    """Source and destination, which has ended, have said the very same sentence."""
    named_error(report, *words, machine=source)
    gone(destination)
    t.same(said(destination), report["error-desc"], "the error of the destination")


def said(machine, *words):
    """The last sentence on stderr of a process that ended has all of @words."""
    lines = machine.stderr().splitlines()
    t.check(lines and lines[-1].startswith("ferry: "), "no sentence on stderr: %r" % machine.stderr())
    for word in words:
        t.check(word.lower() in lines[-1].lower(), "%r is not in the error: %s" % (word, lines[-1]))
    return lines[-1][len("ferry: "):]


# --- who has the guest -------------------------------------------------------------------------------

def at_home(source, before, check=True):
    """The source's guest runs as if nothing had happened, and nothing else is left of the migration."""
    t.same(status(source), "running", "status of the source")
    same_held(source, before)
    if check:
        verify(source)


def guest_time(machine):
    """ns that the vCPUs have run since they were made."""
    total = 0
    for cpu in machine.qmp.run("query-cpus-fast"):
        with open("/proc/%d/task/%d/schedstat" % (machine.process.pid, cpu["thread-id"])) as f:
            total += int(f.read().split()[0])
    return total


def stands_still(machine, work):
    """While work() is done, which the guest elsewhere takes part in, no vCPU of @machine runs."""
    before = guest_time(machine)
    work()
    t.same(guest_time(machine) - before, 0, "ns that vCPUs of the paused machine ran")


FLOCK = struct.Struct("hhxxxxqqixxxx")


def locked(path):
    """Whether some process has the disk at @path for itself."""
    with open(path, "r+b") as f:
        ask = FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        return FLOCK.unpack(fcntl.fcntl(f, fcntl.F_OFD_GETLK, ask))[0] != fcntl.F_UNLCK


@contextlib.contextmanager
def grab(path):
    """Have the disk at @path for ourselves meanwhile."""
    with open(path, "r+b") as f:
        fcntl.fcntl(f, fcntl.F_OFD_SETLK, FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
        yield


def owns_disk(machine):
    """Whether a descriptor of @machine has a lock."""
    folder = "/proc/%d/fdinfo/" % machine.process.pid
    for fd in os.listdir(folder):
        try:
            with open(folder + fd) as f:
                if "OFDLCK" in f.read():
                    return True
        except FileNotFoundError:
            pass
    return False


def make_disk(name="disk", size=1 << 20):
    path = os.path.join(t.scratch, name)
    with open(path, "wb") as f:
        f.truncate(size)
    return path
