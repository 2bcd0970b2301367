#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""The command line: help, and what bad input gets: one sentence that names the thing, exit status 1
or 2, nothing left behind."""

import os
import signal
import re
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import ferrytest as t

MANUAL = os.path.join(t.TOP, "vmm", "ferry.1")


def commands():
    """Names of all commands, from the help."""
    return re.findall(r"^  ([a-z]+) ", t.ferry("--help")[1], re.MULTILINE)


def path(name, content=None):
    full = os.path.join(t.scratch, name)
    if content is not None:
        with open(full, "wb") as f:
            f.write(content)
    return full


def guest():
    with open(t.GUEST, "rb") as f:
        return f.read()


def refused(status, *arguments, naming):
    """Run ferry with arguments that it must refuse, and look at how it does so."""
    before = sorted(os.listdir(t.scratch))
    got, out, err = t.ferry(*arguments)
    what = "ferry " + " ".join(a[:80] for a in arguments)
    t.same(got, status, what + ": status")
    t.same(out, "", what + ": stdout")
    lines = err.splitlines()
    t.check(lines and lines[0].startswith("ferry: "), "%s: stderr is %r" % (what, err))
    for word in naming.split():
        t.check(word in lines[0], "%s: %r is not in %r" % (what, word, lines[0]))
    if status == 2:
        t.check(lines[1:] and re.fullmatch(r"Try 'ferry .*'\.", lines.pop()),
                "%s: says not how to get help: %r" % (what, err))
    t.same(len(lines), 1, what + ": lines on stderr: " + repr(err))
    t.same(sorted(os.listdir(t.scratch)), before, what + ": files left behind")


@t.test
def version():
    status, out, err = t.ferry("--version")
    t.same((status, err), (0, ""), "--version")
    t.check(re.fullmatch(r"ferry \d+\.\d+\.\d+\n", out), "--version: " + out)


@t.test
def help_of_every_command():
    t.check({"run", "ctl", "status", "help"} <= set(commands()), "commands: %r" % commands())
    for name in set(commands()) - {"help"}:
        status, out, err = t.ferry(name, "--help")
        t.same((status, err), (0, ""), name + " --help")
        t.check(out.startswith("Usage: ferry " + name), name + " --help: " + out)
        t.same(t.ferry("help", name), (0, out, ""), "help " + name)


@t.test
def manual_has_every_command_and_no_option_that_is_not_there():
    with open(MANUAL) as f:
        manual = f.read()
    here = set(commands())
    known = "".join(t.ferry("help", name)[1] for name in here - {"help"})
    for name in here:
        t.check(".It Cm %s\n" % name in manual, name + " is not in the manual")
    options = set(re.findall(r"Fl Fl ([a-z-]+)", manual))
    t.check(len(options) > 10, "options in the manual: %r" % options)
    for option in options:
        t.check("--" + option in known, "--%s is in the manual, but in no help" % option)


@t.test
def unknown_commands():
    refused(2, "rnu", naming="'rnu' run?")
    refused(2, "stat", naming="'stat' status?")
    refused(2, "help", "statsu", naming="'statsu' status?")
    refused(2, "frobnicate", naming="'frobnicate'")
    status, out, err = t.ferry()
    t.same((status, out), (2, ""), "no command at all")
    t.check("Usage: ferry" in err, err)


@t.test
def bad_options():
    refused(2, "run", "--kernal", "x", naming="--kernal --kernel?")
    refused(2, "run", "--kernel", naming="--kernel FILE nothing")
    refused(2, "run", "--paused=yes", naming="--paused no value 'yes'")
    refused(2, "run", "-k", "x", naming="-k")
    refused(2, "run", "--memory", "lots", naming="--memory 'lots' 512M")
    refused(2, "run", "--memory", "-1", naming="--memory '-1'")
    refused(2, "run", "--memory", "99999999999999999999", naming="--memory")
    refused(1, "run", "--memory", "1", naming="memory 2 MiB 1048576")
    refused(1, "run", "--memory", "0", naming="memory 2 MiB 0")
    refused(1, "run", "--memory", "4097K", "--kernel", "x", naming="memory 4 KiB")
    for cpus in ("0", "256", "x", "-1", "1.5", ""):
        refused(2, "run", "--cpus", cpus, naming="--cpus 255 '%s'" % cpus)
    refused(2, "run", "--memory-backing", "wood", naming="--memory-backing hugetlb wood")
    refused(2, "run", "--on-reboot", "maybe", naming="--on-reboot exit maybe")
    refused(2, "run", "--on-crash", "burn", naming="--on-crash reset burn")
    refused(2, "run", "one.dtb", "two.dtb", naming="'two.dtb'")
    refused(2, "run", "a.dtb", "--memory", "64", naming="a.dtb both")
    refused(2, "status", naming="CONTROL nothing")
    refused(2, "status", "x", "--jsno", naming="--jsno --json?")
    refused(2, "status", "x", "--timeout", "0", naming="--timeout 86400 '0'")
    refused(2, "ctl", "x", naming="COMMAND CONTROL")
    refused(2, "upgrade", naming="CONTROL none")
    refused(1, "upgrade", "/nonexistent/control", naming="/nonexistent/control")
    refused(1, "upgrade", "x", "--binary", "/nonexistent/ferry", naming="/nonexistent/ferry program")
    refused(2, "ctl", "x", "cont", "force", naming="key=value 'force'")


@t.test
def bad_cpu_models():
    for name in ("x86-64-v9", "", "HOST"):
        refused(1, "run", "--kernel", "x", "--cpu", name, "--dump-dtb", path("out"), naming="ferry cpu")
    refused(1, "run", "--kernel", "x", "--cpu", path("none.cpu"), naming="none.cpu No such file")
    refused(1, "run", "--kernel", "x", "--cpu", path("text.cpu", b"text"), naming="text.cpu line 1")
    refused(1, "run", "--kernel", "x", "--cpu", path("list.cpu", b"[]"), naming="list.cpu ferry-cpu")
    refused(2, "run", path("a.dtb"), "--cpu", "host", naming="a.dtb both")
    refused(1, "cpu", path("none.cpu"), naming="none.cpu No such file")
    refused(1, "cpu", t.scratch, naming=t.scratch)
    refused(2, "cpu", "--hots", naming="--hots")


@t.test
def bad_trees():
    refused(1, "run", path("none.dtb"), naming="none.dtb No such file")
    refused(1, "run", path("empty.dtb", b""), naming="empty.dtb device tree")
    refused(1, "run", path("text.dtb", b"no tree " * 100), naming="text.dtb device tree")
    refused(1, "run", t.scratch, naming=t.scratch)
    refused(1, "run", "--kernel", "x", "--dump-dtb", "/no/such/place", naming="--dump-dtb /no/such/place")
    tree = path("good.dtb")
    t.same(t.ferry("run", "--kernel", "x", "--dump-dtb", tree), (0, "", ""), "--dump-dtb")
    with open(tree, "rb") as f:
        good = f.read()
    refused(1, "run", path("short.dtb", good[:len(good) // 2]), naming="short.dtb")
    # A tree says of itself how long it is: what is behind it does not count.
    t.same(t.ferry("run", path("long.dtb", good + b"x" * 100), "--dump-dtb", path("out"))[0], 0,
           "bytes behind the tree")


@t.test
def trees_with_any_byte_changed():
    tree = path("good.dtb")
    t.same(t.ferry("run", "--kernel", "x", "--dump-dtb", tree)[0], 0, "--dump-dtb")
    with open(tree, "rb") as f:
        good = f.read()
    refusals = 0
    for at in range(0, len(good), 5):
        bad = bytearray(good)
        bad[at] ^= 0xFF
        status, _, err = t.ferry("run", path("bad.dtb", bytes(bad)), "--dump-dtb", path("out"))
        t.check(status in (0, 1), "byte %d: status %d: %s" % (at, status, err))
        t.check(status == 0 or re.fullmatch(r"ferry: [^\n]*\n", err), "byte %d: %r" % (at, err))
        refusals += status
    t.check(refusals > 20, "only %d changes were noticed" % refusals)


@t.test
def bad_devices():
    odd = path("odd.img", b"x" * 1000)
    refused(1, "run", "--disk", path("none.img"), naming="none.img No such file")
    refused(1, "run", "--disk", odd, naming="odd.img 512 1000")
    refused(1, "run", "--disk", odd + ",sideways", naming="--disk readonly sideways")
    refused(1, "run", "--disk", "", naming="disk")
    refused(1, "run", "--serial", "carrier-pigeon", naming="--serial pty carrier-pigeon")


@t.test
def bad_control_sockets():
    busy = path("file", b"precious")
    refused(1, "run", "--control", busy, naming="file socket")
    with open(busy, "rb") as f:
        t.same(f.read(), b"precious", "the file in the way")
    refused(1, "run", "--control", "/no/such/place", naming="/no/such/place")
    refused(1, "run", "--control", "x" * 200, naming="xxx 96 200")
    for client in (["status"], ["ctl"]):
        words = [] if client == ["status"] else ["query-status"]
        refused(1, *client, path("none.sock"), *words, naming="none.sock No such file")
        refused(1, *client, busy, *words, naming="file nobody listens")


@t.test
def bad_addresses():
    for uri, naming in (("udp:x", "udp:x tcp:HOST:PORT"), ("", "tcp:HOST:PORT"),
                        ("tcp:127.0.0.1", "no port"), ("tcp:127.0.0.1:99999", '"99999" 65535'),
                        ("tcp:nohost.invalid:1", "nohost.invalid"),
                        ("tcp:192.0.2.1:1", "192.0.2.1 assign"),
                        ("unix:/no/such/place", "/no/such/place No such file"),
                        ("unix:" + "x" * 200, "107 200"), ("unix:" + t.scratch, t.scratch),
                        ("fd:77", "77 open"), ("fd:x", '"x" number'),
                        ("file:" + path("none"), "none No such file")):
        refused(1, "receive", uri, naming=naming)
    refused(1, "receive", "file:" + t.scratch, naming=t.scratch)
    refused(2, "receive", naming="URI")
    refused(2, "receive", "a", "b", naming="'b'")
    refused(1, "restore", path("none"), naming="none No such file")
    refused(2, "restore", naming="FILE")
    refused(1, "restore", path("text", b"not a stream " * 9), naming="record byte 0")
    refused(1, "inspect", path("none"), naming="none No such file")
    refused(2, "inspect", naming="FILE")
    refused(2, "migrate", "x", naming="CONTROL URI")
    refused(2, "migrate", "x", "y", "z", naming="'z'")
    refused(2, "migrate", "x", "y", "--timeout", "soon", naming="--timeout 'soon'")
    refused(2, "migrate", "x", "y", "--downtime-limit", "-1", naming="--downtime-limit '-1'")
    refused(2, "migrate", "x", "y", "--max-bandwidth", "fast", naming="--max-bandwidth 'fast'")
    refused(2, "migrate", "x", "y", "--on-timeout", "pray", naming="--on-timeout force pray")
    refused(2, "migrate", "x", "y", "--converge", "hard", naming="--converge auto hard")
    refused(1, "migrate", path("none"), "unix:x", naming="none No such file")
    refused(2, "save", "x", naming="CONTROL FILE")
    refused(1, "save", path("none"), path("out"), naming="none No such file")


@t.test
def a_guest_that_cannot_go_there_goes_on_here():
    reason = t.kvm_missing()
    if reason:
        return reason
    m = t.run("tick seconds=1000")
    t.check(m.qmp, "the control socket is there")
    for uri, naming in (("udp:x", "udp:x tcp:HOST:PORT"), ("tcp:127.0.0.1:1", "127.0.0.1:1 refused"),
                        ("unix:" + path("none"), "none No such file")):
        refused(1, "migrate", m.control, uri, naming=naming)
        t.same(m.qmp.run("query-status")["status"], "running", "status")
    refused(1, "save", m.control, "/no/such/place", naming="/no/such/place No such file")
    m.output = ""
    m.expect("^tick ")


@t.test
def told_to_end_while_it_waits():
    for number in (signal.SIGINT, signal.SIGTERM):
        m = t.receive(None)
        m.process.send_signal(number)
        t.same(m.wait(), 1, "exit status")
        t.check("told to end" in m.stderr() and len(m.stderr().splitlines()) == 1, "stderr: %r" % m.stderr())
        for left in (m.control, m.uri[5:]):
            t.check(not os.path.exists(left), left + " was left behind")


@t.test
def bad_kernels():
    reason = t.kvm_missing()
    if reason:
        return reason
    refused(1, "run", naming="kernel")
    refused(1, "run", "--kernel", path("none.elf"), naming="none.elf No such file")
    refused(1, "run", "--kernel", t.scratch, naming=t.scratch)
    refused(1, "run", "--kernel", path("empty.elf", b""), naming="empty.elf")
    refused(1, "run", "--kernel", path("text.elf", b"no kernel " * 999), naming="text.elf")
    refused(1, "run", "--kernel", path("short.elf", guest()[:60]), naming="short.elf")
    refused(1, "run", "--kernel", path("half.elf", guest()[:5000]), naming="half.elf")
    refused(1, "run", "--kernel", os.path.realpath("/proc/self/exe"), naming="python PVH")
    refused(1, "run", "--kernel", t.GUEST, "--initrd", path("none.rd"), naming="none.rd No such file")
    refused(1, "run", "--kernel", t.GUEST, "--memory", "4", "--initrd",
            path("big.rd", b"x" * (8 << 20)), naming="initrd 8388608")
    refused(1, "run", "--kernel", t.GUEST, "--cmdline", "x" * 100000, naming="cmdline")
    refused(1, "run", "--kernel", t.GUEST, "--memory", "900000T", naming="memory")


@t.test
def what_another_ferry_has():
    reason = t.kvm_missing()
    if reason:
        return reason
    disk = path("disk.img", b"x" * 4096)
    m = t.run("tick seconds=1000", "--paused", "--disk", disk)
    t.same(m.qmp.run("query-status")["status"], "prelaunch", "status")
    refused(1, "run", "--kernel", t.GUEST, "--disk", disk, naming="disk.img")
    refused(1, "run", "--kernel", t.GUEST, "--control", m.control, naming=m.control)
    m.qmp.run("quit")
    t.same(m.wait(), 0, "exit status")
    t.check(not os.path.exists(m.control), "the control socket was left behind")


t.main(needs_kvm=False)
