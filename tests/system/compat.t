#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Compatible and hostile: what does not fit is refused before any RAM is sent, by name, with the same sentence on both
sides, and the guest goes on; what is optional is skipped; nothing in a stream is believed unchecked.

Covers of what others had to fix: a destination whose options differed a little; "error while loading state" as the
only message; counts and indices of the stream used unchecked; an aborted receive that looked like a success.

One side is a ferry. The other is a ferry behind a proxy that alters a record, or a script that speaks the wire format
of migration/README.md."""

import os
import socket
import struct
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import ferrytest as t
from checks import (at_home, both_named, dirty, end, gone, held, make_disk, named_error, owns_disk, receiver, said, start, verify,
                    waits_on)
from wire import Node, Peer, Proxy, Record, connect, crc32c, edit, hello, message, tree_build, tree_parse

PAGE = 4096
DATA, ZERO = 1, 2
RUN = struct.Struct(">QIB3s")


# --- the source against a script ---------------------------------------------------------------------

class Listener:
    """Where a source finds a script instead of a ferry."""

    def __init__(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.path = os.path.join(t.scratch, "script%d" % self.sock.fileno())
        self.sock.bind(self.path)
        self.sock.listen(1)
        self.sock.settimeout(t.PATIENCE)
        self.uri = "unix:" + self.path

    def accept(self):
        return Peer(self.sock.accept()[0])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()
        os.unlink(self.path)


def receive_ram(peer, record, ram):
    """Put the pages of a RAM record where its table says; no page may come twice in a record."""
    t.check(0 < len(record.meta) <= 512 * 16 and len(record.meta) % 16 == 0, "a table of %d bytes" % len(record.meta))
    runs = [RUN.unpack_from(record.meta, at) for at in range(0, len(record.meta), 16)]
    payload, last = memoryview(peer.payload(record)), 0
    t.same(len(payload), sum(pages for _, pages, kind, _ in runs if kind == DATA) * PAGE, "bytes of payload")
    for gpa, pages, kind, reserved in runs:
        size = pages * PAGE
        t.check(kind in (DATA, ZERO) and reserved == b"\0\0\0" and pages, "a strange run %r" % ((gpa, pages, kind),))
        t.check(gpa % PAGE == 0 and last <= gpa and gpa + size <= len(ram), "a run at 0x%x of %d pages" % (gpa, pages))
        last = gpa + size
        ram[gpa:last] = payload[:size] if kind == DATA else bytes(size)
        payload = payload[size if kind == DATA else 0:]


def converse(peer):
    """Take a machine up to its state; all RAM, and what STOPPED said of it."""
    peer.say("HELLO", hello())
    theirs = tree_parse(peer.hear("HELLO").meta)
    t.same((theirs.u64("version-min"), theirs.u64("version-max")), (1, 1), "versions")
    t.same(theirs.text("machine"), "ferry,machine-x86_64", "machine")
    machine = tree_parse(peer.hear("MACHINE").meta)
    start, size = struct.unpack(">2Q", machine.child("memory@0").properties["reg"])
    t.same(start, 0, "start of RAM")
    t.check("ferry,cpuid" in machine.child("cpus").properties, "the machine does not tell its CPUID table")
    peer.say("ACCEPT")
    ram, stopped = bytearray(size), None
    while True:
        record = peer.hear()
        if record.name == "RAM":
            receive_ram(peer, record, ram)
        elif record.name == "STOPPED":
            stopped = tree_parse(record.meta)
        elif record.name == "STATE":
            break
        else:
            t.same(record.name, "PROGRESS", "record")
    t.check(stopped, "no STOPPED came")
    state = tree_parse(record.meta)
    names = {node.name for node in machine.walk() if "compatible" in node.properties}
    for node in state.children:
        t.check(node.name in names, "state of %s, which is no device of the machine" % node.name)
    for name in ("cpu@0", "clock", "interrupt-controller", "serial@3f8"):
        state.child(name)
    return ram, stopped


@t.test
def the_stream_is_what_its_description_says():
    source = dirty("fill=1 ws=0 idle=1", memory="3")
    source.qmp.run("query-migrate")
    before = held(source)
    with Listener() as listener:
        start(source, listener.uri, x_verify=True, x_deadline=int(t.PATIENCE * 1000))
        peer = listener.accept()
        ram, stopped = converse(peer)
        t.same(stopped.u64("run"), 1, "whether the guest shall run")
        t.same(crc32c(ram), stopped.u64("ram-crc"), "checksum of all RAM at switchover")
        # An error crosses as data.
        peer.say("FAILED", message(code=28, phase="load", device="toaster", field="slots", expected="2", got="1"))
        error = named_error(end(source), "load: toaster: slots: expected 2, found 1", machine=source)
        t.same([error[k] for k in ("phase", "device", "field", "expected", "got")], ["load", "toaster", "slots", "2", "1"],
               "the error")
        peer.close()
        at_home(source, before)
        # To the end.
        start(source, listener.uri)
        peer = listener.accept()
        converse(peer)
        peer.say("LOADED")
        peer.hear("COMMIT")
        peer.say("RUNNING", message(commit_ns=1000, resumed_ns=1, realtime_ns=1))
        t.check(peer.ended(), "the source says more after RUNNING")
        report = end(source)
    t.same(report["status"], "completed", "status of the migration")
    t.same(source.wait(), 0, "exit status of the source")


# Greetings that must not lead to anything: what is wrong, and words of the error.
GREETINGS = [(dict(version_min=2, version_max=9), ("version", "1 to 1", "2 to 9")),
             (dict(version_min=0, version_max=0), ("version", "0 to 0")),
             (dict(version_min=3, version_max=1), ("version", "3 to 1")),
             (dict(machine="ferry,machine-riscv64"), ("machine", "x86_64", "riscv64")),
             (dict(ram_record_max=100), ("ram-record-max", "100"))]


@t.test
def source_refuses_a_destination_of_another_kind():
    source = dirty()
    source.qmp.run("query-migrate")
    before = held(source)
    for facts, words in GREETINGS:
        with Listener() as listener:
            start(source, listener.uri)
            peer = listener.accept()
            peer.say("HELLO", hello(**facts))
            report = end(source)
            error = named_error(report, *words, machine=source)
            # The other side is told the same, and has not even seen the machine.
            told = tree_parse(peer.hear("FAILED").meta)
            for part in ("phase", "device", "field", "expected", "got"):
                t.same(told.text(part), error[part], part + " of the error that was sent")
            t.check(peer.ended(), "the source says more")
            t.same((report["ram"]["normal"], report["ram"]["duplicate"]), (0, 0), "pages that were sent")
            peer.close()
    at_home(source, before)


@t.test
def destination_refuses_a_source_of_another_kind():
    for facts, words in GREETINGS:
        destination = receiver()
        peer = Peer(connect(destination.uri))
        theirs = tree_parse(peer.hear("HELLO").meta)
        t.check(theirs.u64("ram-record-max") >= PAGE, "the destination takes less than a page at once")
        peer.say("HELLO", hello(**facts))
        told = tree_parse(peer.hear("FAILED").meta)
        peer.close()
        gone(destination)
        sentence = said(destination, *words)
        for part in ("phase", "device", "field", "expected", "got"):
            t.check(told.text(part) in sentence, "%s was sent, but not printed: %s" % (part, sentence))


@t.test
def destination_takes_nothing_out_of_order():
    def tree():
        root = Node()
        root.properties["compatible"] = b"x\0"
        return tree_build(root)
    destination = receiver()
    for visit, (name, meta) in enumerate((("COMMIT", b""), ("STATE", tree()), ("STOPPED", message(run=1)), ("MACHINE", tree()),
                       ("RAM", RUN.pack(0, 1, ZERO, b"")), ("LOADED", b""), ("END", b""))):
        peer = Peer(connect(destination.uri))
        peer.hear("HELLO")
        peer.say(name, meta)
        peer.hear("FAILED")
        peer.close()
        waits_on(destination, "HELLO", name, visit=visit)


@t.test
def strangers_at_the_port_do_not_end_the_waiting():
    destination = t.receive("tcp:127.0.0.1:0")
    for visit, words in enumerate((b"GET / HTTP/1.0\r\nHost: here\r\n\r\n" + bytes(64), b"\x16\x03\x01" + bytes(200), bytes(4096), b"")):
        sock = connect(destination.uri)
        sock.sendall(words)
        sock.shutdown(socket.SHUT_WR)
        waits_on(destination, "magic" if words else "closed", visit=visit)
        sock.close()
    source = dirty()
    start(source, destination.uri)
    t.same(source.wait(), 0, "exit status of the source")
    verify(destination)


@t.test
def files_that_a_source_names_over_tcp_are_not_opened():
    disk = make_disk()
    source = dirty("fill=2 ws=1 rate=20", "--disk", disk)
    source.qmp.run("query-migrate")
    before = held(source)
    destination = t.receive("tcp:127.0.0.1:0")
    destination.qmp.run("query-status")
    start(source, destination.uri)
    both_named(end(source), source, destination, "virtio-blk", "host-path", "--trust-source", disk)
    at_home(source, before)
    # Named here too, or trusted, it is opened. Its kernel is then known, or is not.
    for options, boots in ((("--disk", disk), False), (("--disk", disk, "--kernel", t.GUEST), True),
                           (("--trust-source",), True)):
        destination = t.receive("tcp:127.0.0.1:0", *options)
        start(source, destination.uri)
        t.same(source.wait(), 0, "exit status of the source")
        verify(destination)
        source = destination
        if boots:
            source.qmp.run("system_reset")
            source.expect("^dirty ready.*\n")
    # A move by a unix socket needs none of that.
    destination = receiver()
    start(source, destination.uri)
    verify(destination)


@t.test
def a_reset_without_a_kernel_says_what_is_missing():
    source = dirty()
    destination = t.receive("tcp:127.0.0.1:0")
    destination.qmp.run("query-status")
    start(source, destination.uri)
    t.same(source.wait(), 0, "exit status of the source")
    verify(destination)
    try:
        destination.qmp.run("system_reset")
        raise t.Failure("a reset without a kernel succeeded")
    except t.QmpError as e:
        t.check("--kernel" in str(e), "the error does not name the option: %s" % e)
    t.same(destination.wait(), 1, "exit status")


# --- a machine that does not fit ------------------------------------------------------------------------------

def cpu_feature(leaf, register):
    """Want every feature of a word of CPUID."""
    def change(root):
        cpus = root.child("cpus").properties
        table = list(struct.unpack(">%dI" % (len(cpus["ferry,cpuid"]) // 4), cpus["ferry,cpuid"]))
        at = [i for i in range(0, len(table), 7) if table[i:i + 2] == [leaf, 0]]
        t.check(at, "the guest has no CPUID leaf 0x%x" % leaf)
        table[at[0] + 3 + register] = 0xFFFFFFFF
        cpus["ferry,cpuid"] = struct.pack(">%dI" % len(table), *table)
    return change


def cpu_vendor(root):
    cpus = root.child("cpus").properties
    cpus["ferry,cpuid"] = b"".join(cpus["ferry,cpuid"][i:i + 16] + b"NoSuchVendor" if i == 0 else
                                   cpus["ferry,cpuid"][i:i + 28] for i in range(0, len(cpus["ferry,cpuid"]), 28))


def memory(*ranges):
    def change(root):
        root.child("memory@0").properties["reg"] = struct.pack(">%dQ" % len(ranges), *ranges)
    return change


def prop(path, name, value):
    def change(root):
        node = root.child(path) if path else root
        if value is None:
            del node.properties[name]
        else:
            node.properties[name] = value
    return change


def many_cpus(root):
    cpus = root.child("cpus")
    for n in range(1, 300):
        cpu = Node("cpu@%x" % n)
        cpu.properties.update(cpus.child("cpu@0").properties, reg=struct.pack(">I", n))
        cpus.children.append(cpu)


def twin(root):
    root.child("isa").children.append(root.child("isa/serial@3f8"))


def stranger(root):
    node = Node("toaster@d0005000")
    node.properties["compatible"] = b"acme,toaster\0"
    root.children.append(node)


MACHINES = [
    ("CPU feature", cpu_feature(1, 2), ("cpus", "CPUID.1:ECX", "bit")),
    ("CPU feature of an extended leaf", cpu_feature(0x80000001, 3), ("cpus", "CPUID.80000001:EDX", "bit")),
    ("CPU vendor", cpu_vendor, ("cpus", "vendor")),
    ("half a CPUID table", prop("cpus", "ferry,cpuid", bytes(40)), ("cpus", "ferry,cpuid")),
    ("RAM of no size", memory(0, 0), ("memory@0", "2 MiB")),
    ("RAM of half a page", memory(0, (16 << 20) + 2048), ("memory@0", "4 KiB")),
    ("RAM that does not begin at 0", memory(1 << 20, 16 << 20), ("memory@0", "layout")),
    ("RAM over the hole", memory(0, 1 << 40), ("memory@0", "layout")),
    ("more RAM than there is address space", memory(0, 0xC0000000, 1 << 32, 1 << 60), ("memory",)),
    ("a device that nobody has", stranger, ("toaster@d0005000", "acme,toaster")),
    ("another kind of machine", prop("", "compatible", b"ferry,machine-riscv64\0"), ("compatible", "riscv64", "x86_64")),
    ("a device without its address", prop("isa/serial@3f8", "reg", None), ("serial@3f8", "reg")),
    ("two devices of one name", twin, ("serial@3f8", "two")),
    ("300 vCPUs", many_cpus, ("cpus", "300")),
    ("no vCPU", lambda root: root.child("cpus").children.clear(), ("cpus", "0")),
]


@t.test
def machines_that_do_not_fit_are_refused_by_name():
    source = dirty()
    source.qmp.run("query-migrate")
    before = held(source)
    for what, change, words in MACHINES:
        destination = receiver()
        proxy = Proxy(destination.uri, "MACHINE", edit(change))
        start(source, proxy.uri)
        try:
            both_named(end(source), source, destination, *words)
        except t.Failure as e:
            raise t.Failure("%s: %s" % (what, e))
        t.same([r.name for r in proxy.seen], ["HELLO", "HELLO", "MACHINE", "REJECT"], what + ": records")
        at_home(source, before, check=False)
    verify(source)


@t.test
def local_options_that_differ():
    disk = make_disk()
    with open(disk, "r+b") as f:
        f.write(b"contents")
    copy = make_disk("copy")
    source = dirty("fill=1 ws=1 rate=10", "--disk", disk)
    source.qmp.run("query-migrate")
    before = held(source)
    for options, words in ((["--disk", make_disk("larger", 2 << 20)], ("virtio-blk", "size", "larger", "1048576")),
                           (["--disk", copy, "--disk", make_disk("surplus")], ("virtio-blk", "one more")),
                           (["--rng"], ("virtio-rng", "one more"))):
        destination = receiver(*options)
        proxy = Proxy(destination.uri)
        start(source, proxy.uri)
        both_named(end(source), source, destination, *words)
        t.same(proxy.count("RAM"), 0, "records of RAM")
        at_home(source, before, check=False)
    # The same disk by another name, and another kind of serial port, are what the options are for.
    destination = t.receive(None, "--disk", copy)
    start(source, destination.uri, x_verify=True)
    t.same(source.wait(), 0, "exit status of the source")
    verify(destination)
    t.check(owns_disk(destination), "the destination does not own its disk")
    folder = "/proc/%d/fd/" % destination.process.pid
    t.check(copy in [os.readlink(folder + fd) for fd in os.listdir(folder)], "the destination does not use its own disk")


# --- state that does not fit -----------------------------------------------------------------------------------

def without(path):
    """The state without one of its nodes."""
    def change(root):
        root.children.remove(root.child(path))
    return change


def with_node(name):
    def change(root):
        root.children.append(Node(name))
    return change


DISK = "virtio-blk@d0000000/virtio@0"
U32_MAX = b"\xff" * 4


def driver(change, **ring):
    """As if a driver had set the disk up, with one ring, and then more or less."""
    def both(root):
        disk = root.child(DISK)
        disk.properties["status"] = struct.pack(">I", 0xF)
        change(disk.properties)
        queue = disk.child("queue@0").properties
        for name, value in dict(dict(ready=1, size=8, desc=0x10000, driver=0x11000, device=0x12000), **ring).items():
            queue[name] = value.to_bytes(len(queue[name]), "big")
    return both


STATES = [
    ("version of the state", prop("", "version", struct.pack(">I", 99)), ("state", "version", "99")),
    ("a device without state", without("serial@3f8"), ("serial@3f8",)),
    ("a vCPU without state", without("cpu@0"), ("cpu@0",)),
    ("state without a device", with_node("toaster@0"), ("toaster@0",)),
    ("a field that is missing", prop("serial@3f8", "lcr", None), ("serial@3f8", "lcr")),
    ("a field that is unknown", prop("serial@3f8", "colour", b"blue"), ("serial@3f8", "colour")),
    ("a field of another size", prop("serial@3f8", "lcr", bytes(3)), ("serial@3f8", "lcr")),
    ("a count beyond its array", prop("serial@3f8", "n_rx", U32_MAX), ("serial@3f8", "n_rx", "0xffffffff")),
    ("an array shorter than its count", prop("serial@3f8", "n_tx", struct.pack(">I", 7)), ("serial@3f8", "tx")),
    ("more queues than the stream has", prop(DISK, "n_queues", struct.pack(">I", 3)), ("virtio-blk@d0000000", "queue")),
    ("more queues than any device", prop(DISK, "n_queues", U32_MAX), ("virtio-blk@d0000000", "n_queues", "0xffffffff")),
    ("features that were never offered", driver(lambda disk: disk.update(features=b"\xff" * 8)),
     ("virtio-blk@d0000000", "features", "bit")),
    ("a ring outside RAM", driver(lambda disk: None, desc=1 << 40), ("virtio-blk@d0000000", "queue@0", "0x10000000000")),
    ("a ring of an odd size", driver(lambda disk: None, size=7), ("virtio-blk@d0000000", "queue@0", "size 7")),
    ("more requests than the ring has", driver(lambda disk: None, last_avail=200), ("virtio-blk@d0000000", "queue@0.used")),
]


@t.test
def state_that_does_not_fit_is_refused_by_name():
    source = dirty("fill=1 ws=1 rate=10", "--disk", make_disk())
    source.qmp.run("query-migrate")
    before = held(source)
    for what, change, words in STATES:
        destination = receiver()
        proxy = Proxy(destination.uri, "STATE", edit(change))
        start(source, proxy.uri)
        try:
            both_named(end(source), source, destination, *words)
        except t.Failure as e:
            raise t.Failure("%s: %s" % (what, e))
        t.same(proxy.seen[-1].name, "FAILED", what + ": last record")
        at_home(source, before, check=False)
        t.check(owns_disk(source), "the source has not taken its disk back")
    verify(source)


@t.test
def what_is_marked_optional_is_skipped():
    def change(root):
        root.children.append(Node("?toaster"))
        root.child("serial@3f8").properties["?colour"] = b"blue"
    source = dirty()
    destination = receiver()
    proxy = Proxy(destination.uri, "STATE", edit(change))
    start(source, proxy.uri)
    t.same(end(source)["status"], "completed", "status of the migration")
    verify(destination)


def insert(flags):
    """Unknown records among those of the source, which are numbered anew."""
    inserted = 0

    def deed(proxy, record):
        nonlocal inserted
        if record.side != "source":
            return None
        before = b""
        if record.name in ("MACHINE", "RAM", "STATE"):
            payload = bytes(10000)
            before = Record("unknown", b"some metadata", len(payload), record.sequence + inserted, flags=flags).encode()
            before += payload
            inserted += 1
        return before + Record(record.name, record.meta, record.payload_len, record.sequence + inserted).encode()
    return deed


@t.test
def unknown_records_are_skipped_if_optional_and_refused_if_not():
    source = dirty()
    source.qmp.run("query-migrate")
    before = held(source)
    destination = receiver()
    proxy = Proxy(destination.uri, None, insert(1))
    start(source, proxy.uri)
    both_named(end(source), source, destination, "type", "999")
    t.same(proxy.count("RAM"), 0, "records of RAM")
    at_home(source, before)
    destination = receiver()
    proxy = Proxy(destination.uri, None, insert(0))
    start(source, proxy.uri, x_verify=True)
    t.same(end(source)["status"], "completed", "status of the migration")
    verify(destination)


if __name__ == "__main__":
    t.main()
