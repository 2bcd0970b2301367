#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Disks that are not shared: migrate --mirror-disks copies them to those of the destination while the guest works on
them, and switches over together with RAM. The guest (guest/blk.c) writes a generation of every chunk, reads it back,
and knows at the end, wherever that is, what each must hold."""

import os
import struct
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import ferrytest as t
from checks import (at_home, both_named, end, given_up, gone, held, locked, make_disk, named_error, owns_disk, receiver,
                    start, status)
from wire import Proxy, crc32c, cut, cut_after, hold, kill, stall, tree_parse

MIB = 1 << 20
BLOCK = 1 << 16
PASSED = 85                                     # exit status of a guest program that is content
# So little at a time that disk and RAM go in several records.
SLOW = dict(max_bandwidth=8 * MIB, x_verify=True)


def worker(disk, *options, size=2 * MIB, limit=1, **kw):
    """A guest that works on the first @limit MiB of a disk; the rest holds what never changes."""
    if not os.path.exists(disk):
        with open(disk, "wb") as f:
            f.truncate(size)
            f.seek(size - BLOCK - 512)
            f.write(os.urandom(BLOCK))
    m = t.run("vio dev=blk seconds=600 irq=1 depth=16 limit=%d" % limit, "--disk", disk + "".join(options),
              memory="16", **kw)
    m.expect("^vio ready.*\n")
    return m


def works(machine):
    """The guest runs, and all that it has read so far was right."""
    machine.send("s")
    return int(machine.expect(r"^vio blk rounds=\d+ requests=(\d+).*\n").group(1))


def finish(machine):
    """The guest reads every chunk a last time."""
    machine.send("q")
    machine.expect("^vio blk rounds=.* checked.*\n")
    machine.expect("^PASS vio")
    t.same(machine.wait(), PASSED, "exit status")


def holds(source):
    """What it holds. The kernel adds threads while the guest works on its disk, which get their names a little later:
    so it is looked at until it is twice the same."""
    source.qmp.run("query-migrate")
    last = [None]

    def same_again():
        last.append(held(source))
        return last[-1] == last[-2] and last[-1]
    return t.wait_until(same_again, "what the source holds to settle")


def mirror(source, uri, **parameters):
    if parameters:
        source.qmp.run("migrate-set-parameters", **parameters)
    source.qmp.run("migrate", uri=uri, blk=True)


def read(path):
    with open(path, "rb") as f:
        return f.read()


def runs(record):
    """The name and the runs (offset, length, whether there are data) of a BLOCK record, as migration/README.md has it."""
    size, = struct.unpack_from(">H", record.meta)
    table = record.meta[2 + size:]
    t.check(1 <= len(table) // 24 <= 64 and len(table) % 24 == 0, "%d bytes of descriptors" % len(table))
    found = [struct.unpack_from(">QQB7s", table, at) for at in range(0, len(table), 24)]
    t.check(all(kind in (1, 2) and zero == bytes(7) for _, _, kind, zero in found), "kinds in %r" % found)
    t.same(sum(length for _, length, kind, _ in found if kind == 1), record.payload_len, "bytes of payload")
    return record.meta[2:2 + size].decode(), [(offset, length, kind == 1) for offset, length, kind, _ in found]


def other_disk(name="copy", size=2 * MIB):
    """What the destination has: of the right size, and full of something else."""
    path = os.path.join(t.scratch, name)
    with open(path, "wb") as f:
        f.write(b"something else! " * (size // 16))
    return path


def target(name="copy", size=2 * MIB, **kw):
    return receiver("--disk", other_disk(name, size), **kw)


def arrives(source, disk, name="copy"):
    """A migration that succeeds; afterwards the disks are the same but for what the guest did since."""
    destination = target(name)
    mirror(source, destination.uri, x_deadline=0, max_bandwidth=0, x_verify=True)
    t.same(source.wait(), 0, "exit status of the source")
    works(destination)
    t.same((locked(disk), locked(os.path.join(t.scratch, name))), (False, True), "who has which disk")
    return destination


# --- it works ----------------------------------------------------------------------------------------

@t.test
def a_disk_moves_with_the_guest_that_writes_it():
    disk, copy = os.path.join(t.scratch, "here"), os.path.join(t.scratch, "there")
    source = worker(disk)
    destination = target("there")
    stopped = []
    proxy = Proxy(destination.uri, "STATE", lambda p, r: stopped.append((read(disk), None)) and None)
    mirror(source, proxy.uri, x_verify=True)
    report = end(source)
    t.same(report["status"], "completed", "status: %s" % report.get("error-desc"))
    t.same(source.wait(), 0, "exit status of the source")
    # The source's file is as it was when the guest was paused; STOPPED told its checksum.
    t.same(read(disk), stopped[0][0], "disk of the source")
    said = tree_parse([r for r in proxy.seen if r.name == "STOPPED"][0].meta)
    crcs = [value for name, value in said.properties.items() if name.startswith("disk-crc-")]
    t.same([int.from_bytes(v, "big") for v in crcs], [crc32c(read(disk))], "checksums in STOPPED")
    t.same(read(copy)[MIB:], read(disk)[MIB:], "what the guest does not write")
    blocks = [runs(r) for r in proxy.seen if r.name == "BLOCK"]
    t.same({name for name, _ in blocks}, {"virtio-blk@d0000000"}, "names of disks")
    # The first pass is all of it, from its beginning to its end.
    at, passed = 0, iter(run for _, table in blocks for run in table)
    while at < 2 * MIB:
        offset, length, _ = next(passed)
        t.same(offset, at, "where the next run begins")
        at += length
    info = report["disk"]
    t.same((info["total"], info["remaining"], info["page-size"]), (2 * MIB, 0, BLOCK), "figures of the disk")
    # Half of it is data or more, the rest but for two blocks is a hole.
    t.check(info["normal-bytes"] >= MIB + 2 * BLOCK, "only %d bytes of data" % info["normal-bytes"])
    t.check(info["duplicate"] >= MIB // BLOCK - 2, "only %d blocks of zeroes" % info["duplicate"])
    works(destination)
    finish(destination)


@t.test
def both_files_are_the_same_when_the_guest_was_paused():
    disk, copy = os.path.join(t.scratch, "p-here"), os.path.join(t.scratch, "p-there")
    source = worker(disk)
    source.qmp.run("stop")
    destination = target("p-there")
    mirror(source, destination.uri, x_verify=True)
    t.same(source.wait(), 0, "exit status of the source")
    t.wait_until(lambda: status(destination) == "paused", "the guest to arrive")
    t.same(read(copy), read(disk), "the copy")
    # Holes stay holes.
    t.check(os.stat(copy).st_blocks * 512 <= MIB + 3 * BLOCK, "the copy takes %d blocks" % os.stat(copy).st_blocks)
    destination.qmp.run("cont")
    finish(destination)


@t.test
def there_and_back():
    m, disk = worker(os.path.join(t.scratch, "d0")), "d0"
    for n in range(1, 4):
        d = arrives(m, os.path.join(t.scratch, disk), "d%d" % n)
        m, disk = d, "d%d" % n
    finish(m)


@t.test
def several_disks_one_of_them_read_only():
    a, b = os.path.join(t.scratch, "rw"), os.path.join(t.scratch, "ro")
    with open(b, "wb") as f:
        f.write(os.urandom(MIB + 3 * 512))
    source = worker(a, size=3 * MIB + 512)
    source.kill()
    source = t.run("vio dev=blk seconds=600 irq=1 limit=1", "--disk", a, "--disk", b + ",readonly", memory="16")
    source.expect("^vio ready.*\n")
    destination = receiver("--disk", other_disk("rw2", 3 * MIB + 512), "--disk", other_disk("ro2", MIB) + ",readonly")
    mirror(source, destination.uri)
    both_named(end(source), source, destination, "size", str(MIB))
    with open(other_disk("ro2", MIB), "ab") as f:
        f.write(b"x" * 3 * 512)
    destination = receiver("--disk", other_disk("rw2", 3 * MIB + 512), "--disk",
                           os.path.join(t.scratch, "ro2") + ",readonly")
    mirror(source, destination.uri, x_verify=True)
    t.same(source.wait(), 0, "exit status of the source")
    t.same(read(os.path.join(t.scratch, "ro2")), read(b), "the copy of the read-only disk")
    t.check(owns_disk(destination), "the destination does not own its disks")
    t.same(destination.process.poll(), None, "status of the destination")
    destination.send("q")
    destination.expect("^PASS vio")


@t.test
def ferry_migrate_mirrors_and_reports():
    source = worker(os.path.join(t.scratch, "cli"))
    destination = target("cli2")
    code, out, err = t.ferry("migrate", source.control, destination.uri, "--mirror-disks", "--verify")
    t.same((code, err), (0, ""), "status and stderr of ferry migrate")
    t.check("  disks         " in out, "no disks in the report: " + out)
    finish(destination)


# --- what is refused -----------------------------------------------------------------------------------

@t.test
def the_same_file_a_wrong_size_and_a_disk_in_use_are_refused():
    disk = os.path.join(t.scratch, "mine")
    source = worker(disk)
    before = holds(source)
    os.link(disk, disk + "-by-another-name")
    for path, words in ((disk, ("mine", "lock")), (disk + "-by-another-name", ("another-name", "lock")),
                        (other_disk("small", MIB), ("small", "size"))):
        destination = receiver("--disk", path)
        proxy = Proxy(destination.uri)
        mirror(source, proxy.uri)
        both_named(end(source), source, destination, *words)
        t.same((proxy.count("RAM"), proxy.count("BLOCK")), (0, 0), "records of RAM and disks that were sent")
        at_home(source, before, check=False)
        works(source)
    # Somebody else works on what the destination was given: not a byte of it is lost.
    other = worker(os.path.join(t.scratch, "theirs"))
    destination = receiver("--disk", os.path.join(t.scratch, "theirs"))
    mirror(source, destination.uri)
    both_named(end(source), source, destination, "theirs", "lock")
    finish(other)
    t.check(owns_disk(source), "the source does not own its disk")
    finish(arrives(source, disk))


@t.test
def a_file_is_no_place_to_mirror_to():
    source = worker(os.path.join(t.scratch, "f"))
    try:
        mirror(source, "file:" + os.path.join(t.scratch, "saved"))
        raise t.Failure("it was not refused")
    except t.QmpError as e:
        t.check("mirror" in str(e), "refused by " + str(e))
    works(source)
    t.same(t.ferry("save", source.control, os.path.join(t.scratch, "saved"))[0], 0, "status of ferry save")


@t.test
def without_the_option_the_other_file_is_taken_as_it_is():
    disk = make_disk("plain", 2 * MIB)
    source = worker(disk)
    source.qmp.run("stop")
    destination = target("taken")
    taken = os.path.join(t.scratch, "taken")
    before = read(taken)
    proxy = Proxy(destination.uri)
    start(source, proxy.uri)
    report = end(source)
    t.same(report["status"], "completed", "status: %s" % report.get("error-desc"))
    t.check("disk" not in report, "figures of disks that were not copied")
    t.wait_until(lambda: status(destination) == "paused", "the guest to arrive")
    t.same(proxy.count("BLOCK"), 0, "records of disks")
    t.check(read(taken) == before, "it was written to")


# --- faults ----------------------------------------------------------------------------------------------

STEPS = [("BLOCK", 1), ("BLOCK", 2), ("STOPPED", 1), ("STATE", 1), ("LOADED", 1)]


def tracked(source, before, disk):
    """The source is as before, and nothing is noted any more: another try succeeds."""
    at_home(source, before, check=False)
    works(source)
    t.check(owns_disk(source), "the source does not own its disk")


@t.test
def killed_cut_or_stalled_at_every_step():
    disk = os.path.join(t.scratch, "faulty")
    source = worker(disk)
    before = holds(source)
    deadline = int(250 * max(1, t.SLOWNESS / 4))
    for name, nth in STEPS:
        destination = target()
        proxy = Proxy(destination.uri, name, kill(destination, cut(None, None) if name == "LOADED" else None), nth)
        mirror(source, proxy.uri, x_deadline=0, **SLOW)
        named_error(end(source), machine=source)
        tracked(source, before, disk)
    for name, nth in STEPS[:-1]:
        destination = target()
        proxy = Proxy(destination.uri, name, cut_after, nth)
        mirror(source, proxy.uri, **SLOW)
        named_error(end(source), "closed", machine=source)
        given_up(destination, True, "closed")
        tracked(source, before, disk)
    destination = target()
    proxy = Proxy(destination.uri, "BLOCK", lambda p, r: len(r) - 1, 2)
    mirror(source, proxy.uri, **SLOW)
    named_error(end(source), machine=source)
    given_up(destination, True)
    destination = target()
    destination.qmp.run("migrate-set-parameters", x_deadline=deadline)
    proxy = Proxy(destination.uri, "BLOCK", stall, 2)
    mirror(source, proxy.uri, x_deadline=deadline, **SLOW)
    named_error(end(source), "within", machine=source)
    given_up(destination, True, "within")
    proxy.kill()
    tracked(source, before, disk)
    finish(arrives(source, disk))


@t.test
def source_killed_while_it_mirrors():
    source = worker(os.path.join(t.scratch, "dies"))
    destination = target()
    proxy = Proxy(destination.uri, "BLOCK", kill(source, cut(None, None)), 2)
    mirror(source, proxy.uri, **SLOW)
    proxy.wait()
    given_up(destination, True, "closed")


@t.test
def cancel_and_try_again():
    disk = os.path.join(t.scratch, "cancelled")
    source = worker(disk)
    before = holds(source)
    for nth in (1, 3):
        destination = target()
        proxy = Proxy(destination.uri, "BLOCK", hold, nth)
        mirror(source, proxy.uri, **SLOW)
        proxy.wait()
        source.qmp.run("migrate_cancel")
        proxy.release()
        t.same(end(source)["status"], "cancelled", "status")
        gone(destination)
        tracked(source, before, disk)
    finish(arrives(source, disk))


@t.test
def a_destination_whose_disk_is_full():
    if os.geteuid() != 0:
        return "needs root, for a file system of 3 MiB"
    folder = os.path.join(t.scratch, "tiny")
    os.mkdir(folder)
    source = worker(os.path.join(t.scratch, "big"))
    before = holds(source)
    script = 'mount -t tmpfs -o size=1m none %s && truncate -s 2M %s/d && exec "$@"' % (folder, folder)
    path = os.path.join(t.scratch, "stand-in")
    os.symlink(os.path.join(folder, "d"), path)
    destination = receiver("--disk", path, wrap=["unshare", "--mount", "sh", "-c", script, "sh"])
    mirror(source, destination.uri, x_deadline=0)
    both_named(end(source), source, destination, "No space left", "write")
    tracked(source, before, None)


t.main()
