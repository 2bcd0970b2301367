# SPDX-License-Identifier: BSD-2-Clause
"""Stock Linux as a guest: its files, its shell, its log. A guest here is what has send() and expect()."""

import os
import re
import subprocess

import ferrytest as t

# All that this kernel says at the level of a warning or worse, or with the word "error", on a PC without PCI; anything
# else is news.
HARMLESS = (
    r"PCI: Fatal: No config space access function found$",      # there is no PCI to access
    r"PCI: System does not support PCI$",
)
# On an emulated CPU it may say this too.
SLOW = (
    r"hrtimer: interrupt took \d+ ns$",         # a timer's work took milliseconds
)
# What it says when it could not compare its clocks for more than a second, as when a slow host takes that long to move
# it; if they agree (to 1 ms), that is all there is to it.
LATE = r"clocksource: Long readout interval, skipping watchdog check: cs_nsec: (\d+) wd_nsec: (\d+)$"
COMPLAINTS = "soft lockup|hung task|blocked for more|clocksource|rcu.*(stall|detected)|unstable|bug:|oops|skew"


def pack(folder):
    """Make kernel, initramfs and a disk of our own once; why not, where that cannot be done."""
    if os.path.exists(folder):
        return None
    done = subprocess.run([os.path.join(t.TOP, "guest", "linux", "pack"), folder], capture_output=True, text=True,
                          env=dict(os.environ, SKIP_DISK="1"))
    return done.stderr.strip() if done.returncode else None


def emulated():
    """QEMU before 9.0 loses a nested guest's XCR0 (tests/lab/README.md)."""
    with open("/proc/cpuinfo") as f:
        return "QEMU TCG" in f.read()


def kernel_words():
    """What its kernel is told here."""
    return "console=ttyS0 quiet loglevel=1 " + ("noxsave " if emulated() else "")


def ready(m):
    m.expect(r"^ferry-linux ready: ")
    m.send("stty -echo; PS1=\n")
    t.same(shell(m, "echo $((6 * 7))").split()[-1:], ["42"], "the shell's first answer")


def shell(m, command, status=0):
    """What a command prints; it must end with @status."""
    # Its prompt may come late, after the command was sent.
    m.send("echo @@; " + command + "; echo @$?@\n")
    found = m.expect(r"@@\r?\n([\s\S]*?)@(\d+)@\r?\n")
    text = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", found.group(1)).replace("\r", "").strip()
    t.same(int(found.group(2)), status, "status of %r, which printed %r" % (command, text))
    return text


def background(m, command):
    """Have it run on beside the shell, and not as its child: busybox's takes the end of one for the end of its input, if it
    comes while the shell waits for some."""
    shell(m, "((" + command + ") &)")


def log(m, words):
    """Lines of the kernel's log that match; chosen by the guest, for the serial port is slow."""
    return shell(m, "dmesg -r | grep -iE '%s'; true" % words).splitlines()


def harmless(line):
    late = re.search(LATE, line)
    if late:
        return emulated() and abs(int(late.group(1)) - int(late.group(2))) < 1000000
    return re.search("|".join(HARMLESS + (SLOW if emulated() else ())), line)


def check_nothing_unexpected(m):
    """In all of its log."""
    bad = [line for line in log(m, "^<[0-4]>|error|failed|firmware bug")
           if not harmless(line) and re.search(r"\] \S", line)]
    t.check(not bad, "in the guest's log:\n" + "\n".join(bad))


def check_no_complaints(m, since):
    """In the log from @since (its seconds) on: what it said of the host's CPU at boot is another matter."""
    bad = [line for line in log(m, COMPLAINTS)
           if not harmless(line) and float(re.search(r"\[ *([0-9.]+)\]", line).group(1)) > since]
    t.check(not bad, "the guest's kernel complains:\n" + "\n".join(bad))


def power_off(m):
    m.send("poweroff -f\n")
    t.same(m.wait(), 0, "exit status after poweroff")
    t.same(m.stderr(), "", "stderr")
