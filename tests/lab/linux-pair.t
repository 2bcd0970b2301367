#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Stock Linux moves between the two hosts of a pair while it writes to a disk that both see, talks over TCP and
prints; then hosts die. Nothing may be lost, changed or doubled, and the guest's log stays clean.

    linux-pair.t [WORD…]        the tests whose names have one of these words, or all

One vCPU, once there and back, by precopy and by postcopy; with FERRY_PAIR=full one and two vCPUs, 10 times, and either
host dies in each phase."""

import os
import re
import shutil
import subprocess
import sys
import time

LAB = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [LAB, os.path.join(os.path.dirname(LAB), "system")]
sys.dont_write_bytecode = True
import ferrytest as t
import linuxtest
from checks import end, gone, locked, said, status
from hosts import Ferry, Host, load
from wire import DROP, Proxy
from witness import Console, Stream

# Set by the half of this script that runs outside of the pair.
FOLDER = os.environ.get("FERRY_PAIR_FOLDER", "")
FULL = os.environ.get("FERRY_PAIR") == "full"
ROUNDS = int(os.environ.get("FERRY_TEST_ROUNDS", "10")) if FULL else 1
DISK_SIZE = 16 << 20
GUEST, PORT, MAC = "10.0.0.9", 7000, "02:00:00:00:00:07"
A, B = Host("10.0.0.1", True), Host("10.0.0.2", False)
# How long the network may take to find the guest, on a real host.
FOUND = 0.5


def file(name):
    return os.path.join(FOLDER, name)


def new_disk():
    """A file of its own for each guest: the lock of one that was killed may outlive it for a moment."""
    if os.path.exists(file("disk")):
        os.unlink(file("disk"))
    with open(file("disk"), "wb") as f:
        f.truncate(DISK_SIZE)


class Guest:
    """A stock Linux at work, and those outside that it works with."""

    def __init__(self, cpus):
        new_disk()
        self.machine = Ferry(A, "run", "--kernel", file("vmlinuz"), "--initrd", file("initramfs"), "--cmdline",
                             linuxtest.kernel_words(), "--memory", "160", "--cpus", cpus, "--disk", file("disk"),
                             "--rng", "--net", "tap,name=t0,mac=" + MAC)
        self.machine._connect()
        self.console = Console(self.machine)
        linuxtest.ready(self.console)
        t.same(self.shell("nproc"), cpus, "CPUs")
        self.since = float(self.shell("cat /proc/uptime").split()[0])
        self.shell("ip addr add %s/24 dev eth0; ip link set eth0 up; ip link set lo up" % GUEST)
        self.shell("(/witness run /dev/vda %d /dev/ttyS0 &) >/dev/null 2>&1" % PORT)
        self.stream = Stream(GUEST, PORT)
        self.works()

    def shell(self, command):
        return linuxtest.shell(self.console, command)

    def counters(self):
        text = self.shell("/witness show")
        return {name: int(value) for name, value in re.findall(r"(\w+)=(\d+)", text)}

    def works(self):
        """All goes on where the guest is now: shell, disk, stream, lines; and the disk is locked."""
        before = self.counters()
        self.stream.more()
        self.console.more()
        t.wait_until(lambda: self.counters()["syncs"] > before["syncs"], "writes to the disk")
        t.same(self.counters()["errors"], 0, "errors that the guest has found")
        t.check(locked(file("disk")), "nobody has the disk for himself")

    def receiver(self, host, uri=None):
        return Ferry(host, "receive", uri or "tcp:%s:0" % host.address, "--disk", file("disk"), "--kernel",
                     file("vmlinuz"), "--initrd", file("initramfs"), "--net", "tap,name=t0")

    def arrived(self, machine):
        """It runs in @machine from now on; seconds until the stream goes on."""
        passed = self.stream.since(time.monotonic())
        self.console.follow(machine)
        self.machine = machine
        return passed

    def move(self, host, postcopy=False):
        source, destination, started = self.machine, self.receiver(host), time.monotonic()
        said = source.stderr()              # of migrations that failed
        destination.qmp.run("query-status")
        source.qmp.run("migrate-set-parameters", x_verify=not postcopy, x_deadline=0, x_postcopy="0")
        source.qmp.run("migrate-set-capabilities", capabilities=[{"capability": "postcopy-ram", "state": postcopy}])
        source.qmp.run("migrate", uri=destination.uri)
        destination._connect()
        destination.qmp.event("RESUME")
        passed = self.arrived(destination)
        t.same(source.wait(), 0, "exit status of the source; it said: " + source.stderr())
        t.same((source.stderr(), destination.stderr()), (said, ""), "what the machines said")
        self.works()
        print("# to %s in %.1f s; the stream's longest silence so far is %.1f s; it went on %.2f s after the guest" %
              (host, time.monotonic() - started, self.stream.silence, passed), flush=True)
        t.check(passed < FOUND * t.SLOWNESS, "the stream went on %.2f s after the guest" % passed)

    def finish(self):
        """The guest looks at all that it has done, and so do we."""
        self.shell("/witness stop")
        self.stream.end()
        t.wait_until(lambda: self.counters()["done"], "the witness to end")
        told = self.counters()
        print("# %r" % told, flush=True)
        t.same(told["errors"], 0, "errors that the guest has found")
        t.same(told["blocks"], DISK_SIZE // 4096, "blocks looked at in the end")
        t.same((told["received"], told["sent"]), (self.stream.sent, self.stream.received), "messages at both ends")
        t.same((self.console.lines, self.console.problem), (told["lines"], None), "lines on the console")
        linuxtest.check_nothing_unexpected(self.console)
        linuxtest.check_no_complaints(self.console, self.since)
        self.disk_is_refused()
        self.console.send("poweroff -f\n")
        t.same(self.machine.wait(), 0, "exit status after poweroff")
        t.check(not locked(file("disk")), "the disk of a guest that has ended is locked")
        os.unlink(file("disk"))

    def disk_is_refused(self):
        """To everybody else, on either host."""
        for host in (A, B):
            code, output = host.run(t.FERRY, "run", "--kernel", file("vmlinuz"), "--memory", "32", "--serial", "none",
                                    "--disk", file("disk"))
            t.check(code == 1 and "lock" in output, "a second machine on %s: %r %r" % (host, code, output))


def there_and_back(cpus, postcopy=False):
    guest = Guest(cpus)
    for _ in range(ROUNDS):
        guest.move(B, postcopy)
        guest.move(A, postcopy)
    guest.finish()


@t.test
def one_vCPU_there_and_back():
    there_and_back("1")


@t.test
def before_its_memory():
    there_and_back("2" if FULL else "1", postcopy=True)


def full(function):
    return t.test(function) if FULL else function


@full
def two_vCPUs_there_and_back():
    there_and_back("2")


def dies(host, then=None):
    """A deed: the host dies before the record is passed on."""
    def deed(proxy, record):
        host.die()
        proxy.reach()
        return then
    return deed


@full
def destination_host_dies_in_each_phase():
    guest = Guest("1")
    source = guest.machine
    for name, nth in (("HELLO", 1), ("MACHINE", 1), ("ACCEPT", 1), ("RAM", 2), ("STOPPED", 1), ("STATE", 1),
                      ("LOADED", 1)):
        destination = guest.receiver(B)
        # With LOADED the source would go on to COMMIT: it must not arrive any more.
        proxy = Proxy(destination.uri, name, dies(B, DROP if name == "LOADED" else None), nth)
        source.qmp.run("migrate-set-parameters", max_bandwidth=16 << 20, x_deadline=15000)
        source.qmp.run("migrate", uri=proxy.uri)
        report = end(source)
        t.same(report["status"], "failed", "status of the migration whose destination died at %s" % name)
        print("# at %s: %s" % (name, report["error-desc"]), flush=True)
        proxy.wait()
        proxy.kill()
        destination.kill()
        t.same(status(source), "running", "status of the source")
        guest.works()
        B.revive()
    source.qmp.run("migrate-set-parameters", max_bandwidth=0)
    guest.move(B)
    guest.finish()


@full
def destination_host_dies_after_COMMIT():
    """The source cannot know whether the guest has run there. A person who does lets it go on."""
    guest = Guest("1")
    source, destination = guest.machine, guest.receiver(B)
    proxy = Proxy(destination.uri, "COMMIT", dies(B))
    source.qmp.run("migrate-set-parameters", x_deadline=15000)
    source.qmp.run("migrate", uri=proxy.uri)
    report = end(source)
    print("# after COMMIT: " + report["error-desc"], flush=True)
    t.check(report["x-ferry"]["handed-over"], "the report does not say handed-over: %r" % report)
    t.same(status(source), "handed-over", "status of the source")
    proxy.kill()
    destination.kill()
    try:
        source.qmp.run("cont")
        t.check(False, "cont was not refused")
    except t.QmpError as e:
        t.check("handed over" in str(e), "the refusal: %s" % e)
    t.wait_until(lambda: not locked(file("disk")), "the dead host's lock to be gone")
    source.qmp.run("cont", force=True)
    t.same(status(source), "running", "status of the source")
    guest.works()
    B.revive()
    guest.move(B)
    guest.finish()


@full
def source_host_dies_before_COMMIT():
    """Its guest is lost with it: the destination ends, has never run it, and leaves the disk to others."""
    for name, nth in (("HELLO", 2), ("MACHINE", 1), ("ACCEPT", 1), ("RAM", 1), ("STOPPED", 1), ("STATE", 1),
                      ("LOADED", 1)):
        new_disk()
        source = Ferry(B, "run", "--kernel", t.GUEST, "--cmdline", "dirty fill=2 ws=1 rate=20", "--memory", "16",
                       "--disk", file("disk"))
        source.expect("^dirty ready.*\n")
        destination = Ferry(A, "receive", "tcp:%s:0" % A.address, "--disk", file("disk"))
        destination.qmp.run("migrate-set-parameters", x_deadline=10000)
        proxy = Proxy(destination.uri, name, dies(B), nth, host=A.address)
        source.qmp.run("migrate", uri=proxy.uri)
        gone(destination)
        print("# at %s: %s" % (name, said(destination)), flush=True)
        proxy.wait()
        proxy.kill()
        source.kill()
        t.wait_until(lambda: not locked(file("disk")), "the dead host's lock to be gone")
        B.revive()


@full
def source_host_dies_after_COMMIT():
    guest = Guest("1")
    guest.move(B)
    source, destination = guest.machine, guest.receiver(A)
    destination.qmp.run("query-status")
    proxy = Proxy(destination.uri, "COMMIT", dies(B), host=A.address)
    source.qmp.run("migrate", uri=proxy.uri)
    destination._connect()
    destination.qmp.event("RESUME")
    source.kill()                       # it has no host any more that would end what is read from it
    guest.arrived(destination)
    guest.works()
    B.revive()
    guest.move(B)
    guest.finish()


def missing():
    """Why the lab cannot be had here, or None."""
    try:
        load(os.path.join(LAB, "box")).check_host()
    except Exception as e:              # a BoxError, of a module that only exists in there
        return str(e)
    return None


def outside():
    """Make what the guest needs, and run the tests on the first host of a pair."""
    reason = missing()
    if reason:
        print("1..0 # SKIP " + reason)
        return 0
    folder = os.path.join(t.TOP, "build", "lab", "pair.%d" % os.getpid())
    try:
        reason = linuxtest.pack(folder)
        if reason:
            print("1..0 # SKIP " + " ".join(reason.split()))
            return 0
        subprocess.run(["gcc", "-O2", "-Wall", "-Wextra", "-D_GNU_SOURCE", "-static", "-o", folder + "/witness",
                        os.path.join(LAB, "witness.c")], check=True)
        with open(folder + "/initramfs", "ab") as f:    # a second archive, which the kernel unpacks after the first
            subprocess.run(["cpio", "-o", "-H", "newc", "--quiet"], input=b"witness\n", cwd=folder, stdout=f,
                           check=True)
        os.environ["FERRY_PAIR_FOLDER"] = folder
        words = [word for name in ("BUILD", "FERRY_TEST_PATIENCE", "FERRY_TEST_SLOWNESS", "FERRY_TEST_ROUNDS",
                                   "FERRY_PAIR", "FERRY_PAIR_FOLDER") for word in ("-e", name)]
        os.environ.setdefault("FERRY_TEST_PATIENCE", "120")
        os.environ.setdefault("FERRY_TEST_SLOWNESS", "10")
        # Emulated hosts with two CPUs have been seen to mix up host and guest (README.md, "Limits").
        return subprocess.run([LAB + "/pair", "--revive", "--cpus", "2" if FULL else "1", "--timeout",
                               "1800" if FULL else "300", *words, "--", os.path.abspath(__file__),
                               *sys.argv[1:]]).returncode
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if not FOLDER:
    sys.exit(outside())
for each in (A, B):
    each.prepare()
t.main()
