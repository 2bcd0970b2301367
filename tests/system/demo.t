#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""make demo: its report, and what it says where there is no KVM to show anything with."""

import os
import re
import shutil
import socket
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import ferrytest as t

DEMO = os.path.join(t.TOP, "tests", "demo")
SMALL = {"FILL": "16", "WS": "2", "RATE": "20"}
# A /dev without kvm, seen by the command alone.
HIDE = ["unshare", "--mount", "sh", "-ec", "mount -t tmpfs none /dev; mknod -m 666 /dev/null c 1 3; exec \"$@\"", "-"]
NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]


def demo(*wrap):
    done = subprocess.run([*wrap, DEMO], env={**os.environ, **SMALL, "BUILD": t.BUILD}, text=True,
                          stdin=subprocess.DEVNULL, capture_output=True, timeout=5 * t.PATIENCE)
    return done.returncode, done.stdout, done.stderr


@t.test
def a_guest_crosses_and_the_report_says_what_it_took():
    if t.kvm_missing():
        return "no KVM: " + t.kvm_missing()
    status, out, err = demo()
    t.same((status, err), (0, ""), "exit status and stderr")
    for figure in (r"rounds +[1-9]", r"by reference +\d", r"copied +\d.* %\)", r"iovecs +[1-9]\d* queued, [1-9]\d* sent",
                   r"system calls +[1-9]", r"throughput +\d.*/s", r"in \d+\.\d+ s", r"blackout +\d+\.\d+ ms",
                   r"guest's clock +\d+\.\d+ ms", r"all [1-9]\d* pages hold what they should"):
        t.check(re.search(figure, out), "%r is not in:\n%s" % (figure, out))
    blackout, seen = (float(re.search(figure + r" +(\d+\.\d+) ms", out)[1]) for figure in ("blackout", "guest's clock"))
    t.check(blackout <= seen + 0.001, "a blackout of %.3f ms, of which the guest saw %.3f ms" % (blackout, seen))
    return None


@t.test
def a_number_that_comes_in_pieces_is_read_to_its_end():
    """What a guest prints comes as it prints it: 82 ms were once read as 8 µs."""
    here, guest = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with here, guest:
        m = t.Machine.__new__(t.Machine)
        m.sock, m.output = here, ""
        for piece in ("rounds=7 gap_us=8", "2345", " now_ns=1"):
            guest.send(piece.encode())
        t.same(m.expect(r"gap_us=(\d+)")[1], "82345", "the number")
        t.same(m.output, " now_ns=1", "what is left to be read")


@t.test
def without_a_device_it_says_so_and_what_to_do():
    if t.kvm_missing():
        status, out, err = demo()
    elif os.geteuid() == 0:
        status, out, err = demo(*HIDE)
    else:
        return "only root can hide /dev/kvm"
    t.same(status, 77, "exit status")
    t.check(re.search(r"/dev/kvm.*(modprobe|nested virtualisation|adduser)", err), "stderr: " + err)
    t.check("make demo LAB=1" in out and "Traceback" not in err, "stdout: %s stderr: %s" % (out, err))
    return None


@t.test
def without_permission_it_says_so_and_what_to_do():
    if os.geteuid() != 0 or t.kvm_missing() or not shutil.which("setpriv"):
        return "needs root, setpriv and a /dev/kvm that can be forbidden"
    if subprocess.run([*NOBODY, "test", "-w", "/dev/kvm"], check=False).returncode == 0:
        return "everybody may use /dev/kvm"
    if subprocess.run([*NOBODY, "test", "-x", t.FERRY], check=False).returncode != 0:
        return "this checkout can be read by root only"
    status, out, err = demo(*NOBODY)
    t.same(status, 77, "exit status")
    t.check("permission" in err and "adduser" in err, "stderr: " + err)
    t.check("make demo LAB=1" in out, "stdout: " + out)
    return None


t.main(needs_kvm=False)
