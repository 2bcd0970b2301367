#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""ferry upgrade: another ferry goes on with a guest, and who looks at it from outside does not notice."""

import os
import select
import signal
import socket
import subprocess
import sys
import termios

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import ferrytest as t

SHARED = ("--memory-backing", "shared")


def upgrade(machine, *options):
    """Run ferry upgrade, which must succeed; what it said."""
    if machine._qmp:
        machine._qmp.close()
        machine._qmp = None
    status, out, err = t.ferry("upgrade", machine.control, *options)
    t.same((status, err), (0, ""), "ferry upgrade: " + out)
    return out


def refused(machine, *options, naming):
    status, out, err = t.ferry("upgrade", machine.control, *options)
    t.same((status, out), (1, ""), "ferry upgrade: " + err)
    for word in naming.split():
        t.check(word in err, "%r is not in %r" % (word, err))


def verify(machine):
    machine.send("v")
    machine.expect(r"verify ok pages=\d+")


def runner(machine):
    """The process that has the guest: the child of the first one, once there was an upgrade."""
    with open("/proc/%d/task/%d/children" % (2 * (machine.process.pid,))) as f:
        children = f.read().split()
    t.same(len(children), 1, "children of the first process")
    return int(children[0])


def dirty(*options):
    machine = t.run("dirty fill=16 ws=4 rate=100", *options)
    machine.expect("dirty ready")
    return machine


def script(name, text):
    path = os.path.join(t.scratch, name)
    with open(path, "w") as f:
        f.write("#!/bin/sh\n" + text)
    os.chmod(path, 0o755)
    return path


@t.test
def guest_goes_on_ten_times_and_its_console_and_status_stay():
    machine = dirty(*SHARED)
    seen = {machine.process.pid}
    for _ in range(10):
        out = upgrade(machine)
        t.check("64.0 MiB handed over" in out, out)
        verify(machine)             # by the connection that was there before
        seen.add(t.wait_until(lambda: runner(machine), "one child"))
        t.same(t.ferry("status", machine.control)[0], 0, "status by the same path")
    t.same(len(seen), 11, "processes")
    machine.send("q")
    t.same(machine.wait(), 85, "the guest's status, by the first process")
    t.check(not os.path.exists(machine.control), "the control socket was left behind")
    t.check(not os.path.exists(machine.serial_path), "the console's socket was left behind")


@t.test
def private_memory_is_copied_and_that_is_said():
    machine = dirty()
    t.check("64.0 MiB copied" in upgrade(machine), "it does not say so")
    verify(machine)
    machine.send("q")
    t.same(machine.wait(), 85, "status")


@t.test
def a_new_ferry_that_fails_leaves_the_guest():
    machine = dirty(*SHARED)
    refused(machine, "--binary", "/nonexistent/ferry", naming="/nonexistent/ferry program")
    refused(machine, "--binary", script("status", "exit 7\n"), naming="ended status 7")
    refused(machine, "--binary", script("signal", "kill -9 $$\n"), naming="ended signal 9")
    refused(machine, "--binary", script("words", "printf %64s words >&3\nexec sleep 1000\n"), naming="magic")
    refused(machine, "--binary", os.path.join(t.TOP, "README.md"), naming="README.md Permission")
    refused(machine, "--binary", script("other", "exec %s receive fd:3 --nonsense\n" % t.FERRY), naming="status 2")
    verify(machine)
    t.check("handed over" in upgrade(machine), "and an upgrade after all that")
    refused(machine, "--binary", script("status", "exit 7\n"), naming="ended status 7")
    verify(machine)
    machine.send("q")
    t.same(machine.wait(), 85, "status")


@t.test
def a_machine_that_cannot_be_built_there_stays_here():
    disk = os.path.join(t.scratch, "disk")
    with open(disk, "wb") as f:
        f.truncate(1 << 20)
    machine = dirty(*SHARED, "--disk", disk)
    refused(machine, "--binary", script("poor", "ulimit -n 8\nexec %s \"$@\"\n" % t.FERRY), naming="status 1")
    refused(machine, "--binary", script("one", "exec %s \"$@\" --rng\n" % t.FERRY), naming="virtio-rng one")
    verify(machine)
    status, out, err = t.ferry("run", "--kernel", t.GUEST, "--cmdline", "hello", "--disk", disk)
    t.check(status == 1 and "lock" in err, "the lock after a failure: " + err)
    # The guest keeps the file it has, not the one that has its name by now.
    os.rename(disk, disk + ".moved")
    upgrade(machine)
    status, out, err = t.ferry("run", "--kernel", t.GUEST, "--cmdline", "hello", "--disk", disk + ".moved")
    t.check(status == 1 and "lock" in err, "the lock after an upgrade: " + err)
    machine.send("q")
    machine.wait()


@t.test
def signals_and_deaths_reach_the_other_process():
    machine = dirty(*SHARED)
    upgrade(machine)
    machine.process.send_signal(signal.SIGTERM)
    t.same(machine.wait(), 0, "SIGTERM of the first process")

    machine = dirty(*SHARED)
    upgrade(machine)
    first = runner(machine)
    upgrade(machine)
    t.wait_until(lambda: not os.path.exists("/proc/%d" % first), "the first heir to end")
    os.kill(runner(machine), signal.SIGKILL)
    t.same(machine.wait(), -signal.SIGKILL, "SIGKILL of the one that has the guest")

    machine = dirty(*SHARED)
    upgrade(machine)
    machine.process.kill()
    machine.rest()                      # until the other one ends, too, and with it the connection
    t.wait_until(lambda: not os.path.exists(machine.serial_path), "the console's socket to be removed")


@t.test
def a_pty_stays_and_so_do_a_file_and_a_paused_guest():
    log = os.path.join(t.scratch, "log")
    machine = t.run("dirty fill=16 ws=4 rate=100", *SHARED, "--serial", "pty", "--console", "file:" + log, serial=False)
    name = t.wait_until(lambda: machine.stderr().partition("connected to ")[2].split(), "a pty")[0]
    machine.sock = socket.socket()      # for expect() and send(): what it reads from and writes to
    fd = os.open(name, os.O_RDWR | os.O_NOCTTY)

    class Pty:
        def settimeout(self, seconds):
            self.seconds = seconds

        def recv(self, size):
            return os.read(fd, size)

        def sendall(self, data):
            os.write(fd, data)

        def close(self):
            os.close(fd)

    machine.sock.close()
    machine.sock = Pty()
    machine.expect("dirty ready")
    upgrade(machine)
    verify(machine)
    machine.qmp.run("stop")
    upgrade(machine)
    t.same(machine.qmp.run("query-status")["status"], "paused", "after an upgrade of a paused guest")
    machine.qmp.run("cont")
    verify(machine)
    machine.send("q")
    t.same(machine.wait(), 85, "status")


# Records (migration/record.h) by whom, when all that comes after one is lost.
BEFORE_COMMIT = [("heir", 1), ("source", 1), ("source", 21), ("source", 2), ("heir", 3), ("source", 20), ("source", 6),
                 ("source", 7), ("heir", 8)]


def killer(side, record):
    return script("killer-%s-%d" % (side, record), "exec python3 %s %s %s %d \"$@\"\n" %
                  (os.path.join(t.TOP, "tests", "system", "heir-proxy"), t.FERRY, side, record))


@t.test
def a_new_ferry_killed_in_each_phase_leaves_the_guest():
    machine = dirty(*SHARED)
    machine.qmp.run("migrate-set-parameters", x_deadline=60000)     # Python takes its time to start
    for side, record in BEFORE_COMMIT:
        refused(machine, "--binary", killer(side, record), naming="ended status")
        verify(machine)
        t.same(machine.qmp.run("query-status")["status"], "running", "after %s %d" % (side, record))
    upgrade(machine)
    verify(machine)


@t.test
def after_commit_the_guest_never_runs_here_again():
    machine = dirty(*SHARED)
    machine.qmp.run("migrate-set-parameters", x_deadline=60000)
    refused(machine, "--binary", killer("source", 10), naming="paused here person")
    t.same(machine.qmp.run("query-status")["status"], "handed-over", "status")
    status, out, err = t.ferry("ctl", machine.control, "cont", "force=true")
    t.check(status == 1 and "RAM" in err, "the RAM may be another's: " + err)


@t.test
def a_tap_without_a_name_keeps_its_carrier():
    machine = t.run("dirty fill=16 ws=4 rate=100", *SHARED, "--net", "tap")
    if "No such" in machine.stderr():
        return "no tap here: " + machine.stderr()
    machine.expect("dirty ready")
    name = machine.stderr().partition("connected to ")[2].split()[0]

    def look():
        facts = []
        for fact in ("ifindex", "carrier", "carrier_changes", "operstate"):
            with open("/sys/class/net/%s/%s" % (name, fact)) as f:
                facts.append(f.read().strip())
        return facts

    before = look()
    t.same(before[1], "1", "carrier")
    for _ in range(2):
        upgrade(machine)
        t.same(look(), before, "ifindex, carrier, carrier_changes, operstate")
    verify(machine)
    refused(machine, "--binary", script("status", "exit 7\n"), naming="status 7")
    t.same(look(), before, "after a failure")


@t.test
def the_terminal_stays_raw_and_is_put_back_at_the_end():
    master, slave = os.openpty()
    before = termios.tcgetattr(slave)
    control = os.path.join(t.scratch, "terminal.qmp")
    process = subprocess.Popen([t.FERRY, "run", "--kernel", t.GUEST, "--cmdline", "dirty fill=16 ws=4 rate=100",
                                "--memory", "64", *SHARED, "--control", control],
                               stdin=slave, stdout=slave, stderr=subprocess.DEVNULL)

    def expect(text, seen=b""):
        while text not in seen:
            t.check(select.select([master], [], [], t.PATIENCE)[0], "%r did not come: %r" % (text, seen))
            seen += os.read(master, 4096)

    try:
        expect(b"dirty ready")
        raw = termios.tcgetattr(slave)
        t.check(raw != before, "raw mode")
        for _ in range(2):
            t.same(t.ferry("upgrade", control)[0], 0, "ferry upgrade")
            t.same(termios.tcgetattr(slave), raw, "the mode after an upgrade")
            os.write(master, b"v")
            expect(b"verify ok")
        os.write(master, b"q")
        t.same(process.wait(t.PATIENCE), 85, "status")
        t.same(termios.tcgetattr(slave), before, "the mode at the end")
    finally:
        process.kill()
        process.wait()
        os.close(master)
        os.close(slave)


t.main()
