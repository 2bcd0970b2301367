#!/usr/bin/python3 -S
# SPDX-License-Identifier: BSD-2-Clause
"""The lab itself: what a box, a pair and their ends promise (README.md). A minute on an idle machine."""
import os
import signal
import subprocess
import sys
import time

LAB = os.path.dirname(os.path.realpath(__file__))
TOP = os.path.dirname(os.path.dirname(LAB))
HERE = os.path.join(TOP, "build", "lab")
count = failed = 0


def ok(good, what, *why):
    global count, failed
    count += 1
    failed += not good
    print("ok" if good else "not ok", count, "-", what, flush=True)
    for line in [] if good else str(why).splitlines():
        print("#", line, flush=True)


def lab(tool, *args):
    return subprocess.run([os.path.join(LAB, tool), *args], cwd=HERE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def descendants(pid):
    """What `pid` has started and still runs (QEMU and virtiofsd, in sessions of their own)."""
    table = subprocess.run(["ps", "-eo", "pid=,ppid=,stat="], stdout=subprocess.PIPE, text=True).stdout
    rows = [line.split() for line in table.splitlines()]
    return [int(row[0]) for row in rows if int(row[1]) == pid and not row[2].startswith("Z")]


def test_command():
    r = lab("box", "sh", "-c", "sleep 1000 & printf 'a\\r\\n\\0\\377'; echo two >&2; exit 42")
    ok(r.returncode == 42, "the status is the command's", r)
    ok(r.stdout == b"a\r\n\0\xfftwo\n", "output is passed on byte by byte, in order", r)
    data = os.urandom(1 << 22)
    with open(HERE + "/t.in", "wb") as f:
        f.write(data)
    r = lab("box", "cat", "t.in")
    ok(r.returncode == 0 and r.stdout == data, "no byte of 4 MiB is lost", r.returncode, len(r.stdout))
    r = lab("box", "no-such-command")
    ok(r.returncode == 127, "an unknown command is status 127", r)
    r = lab("box", "--timeout", "1", "--", "sleep", "1000")
    ok(r.returncode == 124, "a timeout is status 124", r)


def test_host():
    os.environ["LAB_PASSED"] = "a 'b' $c"
    r = lab("box", "-e", "LAB_PASSED", "--", "sh", "-c",
            'pwd; echo "$LAB_PASSED"; echo out > t.out; cd /etc && echo x > t.lab')
    ok(r.stdout.decode() == f"{HERE}\na 'b' $c\n", "directory and variables are the caller's", r)
    with open(HERE + "/t.out") as f:
        ok(f.read() == "out\n", "the checkout is written through")
    ok(r.returncode == 0 and not os.path.exists("/etc/t.lab"), "nothing else is", r)
    r = lab("box", LAB + "/kvm-probe")
    ok(r.returncode == 0, "KVM has all that ferry needs", r.stdout.decode())
    print("#", *r.stdout.decode().splitlines(), sep="\n# ")
    r = lab("box", "sh", "-c", "ip link add v0 type veth && ip tuntap add t0 mode tap && "
            "tc qdisc add dev v0 root tbf rate 1mbit burst 10k latency 1s && echo done")
    ok(r.stdout == b"done\n", "veth, tap and tbf are there when used", r)


def test_ends():
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        box = subprocess.Popen([LAB + "/box", "sh", "-c", "echo up; sleep 1000"], cwd=HERE, stdout=subprocess.PIPE)
        box.stdout.read(1)
        children = descendants(box.pid)
        box.send_signal(number)
        status = box.wait()
        deadline = time.monotonic() + 10
        while any(os.path.exists(f"/proc/{p}/exe") for p in children) and time.monotonic() < deadline:
            time.sleep(0.1)     # they die by the kernel's hand, which nobody can wait for
        left = [p for p in children if os.path.exists(f"/proc/{p}/exe")]
        expected = -number if number == signal.SIGKILL else 128 + number
        ok(len(children) == 2 and not left and status == expected, f"{number.name} leaves nothing",
           children, left, status)


def test_pair():
    on = LAB + "/on 10.0.0.2 "
    r = lab("pair", "--timeout", "300", "--", "sh", "-c", f"/run/busybox ping -c 1 10.0.0.2 >/dev/null && {on} sh -c "
            f"'pwd; ip -br -4 addr show eth0; exit 9'; echo $?; {on} test -c /dev/kvm; exit $?")
    lines = r.stdout.decode().split()
    ok(r.returncode == 0 and lines[0] == HERE and "10.0.0.2/24" in lines and lines[-1] == "9",
       "two hosts reach each other", r)


def main():
    if os.geteuid() != 0:
        print("1..0 # SKIP root is needed (virtiofsd shares the root file system)")
        return 0
    os.makedirs(HERE, exist_ok=True)
    for test in (test_command, test_host, test_ends, test_pair):
        test()
    for name in ("t.in", "t.out"):
        os.unlink(os.path.join(HERE, name))
    print(f"1..{count}")
    return failed != 0


if __name__ == "__main__":
    sys.exit(main())
