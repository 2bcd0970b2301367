#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""The test kernel under QEMU's microvm, without KVM: every program, its options, its exit status.

Another VMM runs it here so that what the kernel says of ferry can be trusted; and its checks are
shown to fail when memory or disk are changed behind its back.
"""

import os
import re
import select
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
BUILD = os.environ.get("BUILD", os.path.join(ROOT, "build"))
ELF = os.path.join(BUILD, "guest", "ferry-guest.elf")
QEMU = shutil.which("qemu-system-x86_64")
PASS, FAIL = 0x2A << 1 | 1, 1 << 1 | 1
DEADLINE = 30

tmp = tempfile.TemporaryDirectory(prefix="guest-qemu.")
count = 0
failed = 0


def path(name):
    return os.path.join(tmp.name, name)


class Guest:
    """A running QEMU with the test kernel; its console is a pair of pipes."""

    def __init__(self, cmdline, *args, memory=64, cpus=1, cpu="max"):
        self.text = ""
        self.deadline = time.monotonic() + DEADLINE
        self.process = subprocess.Popen(
            [QEMU, "-M", "microvm,accel=tcg,acpi=off", "-cpu", cpu, "-m", str(memory),
             "-smp", str(cpus), "-kernel", ELF, "-append", cmdline, "-serial", "stdio",
             "-display", "none", "-monitor", "none", "-no-reboot",
             "-global", "virtio-mmio.force-legacy=false",
             "-device", "isa-debug-exit,iobase=0xf4,iosize=4", *args],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def expect(self, pattern):
        """Reads until the pattern has come; what was read before it is forgotten."""
        while True:
            match = re.search(pattern, self.text)
            if match:
                self.text = self.text[match.end():]
                return match
            left = self.deadline - time.monotonic()
            if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
                self.process.kill()
                raise AssertionError(f"no /{pattern}/ in {DEADLINE} s after: {self.text[-400:]}")
            data = os.read(self.process.stdout.fileno(), 65536)
            if not data:
                raise AssertionError(f"no /{pattern}/ before the end: {self.text[-400:]}")
            self.text += data.decode(errors="replace").replace("\r", "")

    def send(self, text):
        self.process.stdin.write(text.encode())
        self.process.stdin.flush()

    def end(self, status):
        try:
            got = self.process.wait(max(self.deadline - time.monotonic(), 1))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError("the machine did not end")
        if got != status:
            raise AssertionError(f"status {got}, expected {status}: {self.text[-400:]}")

    def passes(self, name):
        self.expect(f"PASS {name}\n")
        self.end(PASS)


def test(function):
    """Runs one test; its docstring is its name."""
    global count, failed
    count += 1
    began = time.monotonic()
    try:
        function()
        print(f"ok {count} - {function.__doc__} # {time.monotonic() - began:.1f} s", flush=True)
    except AssertionError as error:
        failed += 1
        print(f"not ok {count} - {function.__doc__}", flush=True)
        for line in str(error).splitlines():
            print(f"# {line}", flush=True)


def shared_memory(name, mib):
    """Options for RAM in a file, so that the host can change it."""
    file = path(name)
    with open(file, "wb") as f:
        f.truncate(mib << 20)
    return file, ["-object", f"memory-backend-file,id=m,size={mib}M,share=on,mem-path={file}",
                  "-machine", "memory-backend=m"]


def flip(file, at):
    with open(file, "r+b") as f:
        f.seek(at)
        byte = f.read(1)[0]
        f.seek(at)
        f.write(bytes([byte ^ 1]))


def virtio(size):
    """Options for a disk of so many bytes, a console and an entropy device."""
    with open(path("disk"), "wb") as f:
        f.truncate(size)
    return ["-blockdev", f"driver=file,filename={path('disk')},node-name=d,discard=unmap",
            "-device", "virtio-blk-device,drive=d,serial=ferrydisk",
            "-device", "virtio-rng-device", "-device", "virtio-serial-device",
            "-device", "virtconsole,chardev=c",
            "-chardev", f"file,id=c,path={path('console')}"]


def hello():
    """hello finds memory, CPUs and devices"""
    g = Guest("hello", *virtio(1 << 20), memory=5000, cpus=2)
    g.expect("hello from ring 3\n")
    g.expect("ram 0x100000 to 0xc0000000\nram 0x100000000 to 0x178800000\n")
    g.expect("vcpus 2\n")
    g.expect("virtio-mmio at 0xfeb0.*\n.*\nvirtio-mmio at 0xfeb0")
    g.passes("hello")


def small():
    """2 MiB of RAM are enough, an empty command line means hello"""
    g = Guest("", memory=2)
    g.expect("ram 0x100000 to 0x200000\n")
    g.passes("hello")


def registry():
    """help names every program that a file registers"""
    g = Guest("help")
    listed = g.expect("(?s).*PASS help\n").group(0)
    g.end(PASS)
    folder = os.path.join(ROOT, "guest")
    for file in sorted(os.listdir(folder)):
        if not file.endswith(".c"):
            continue
        with open(os.path.join(folder, file)) as f:
            for name in re.findall(r"^PROGRAM(?:_NAMED)?\((\w+)", f.read(), re.M):
                if not re.search(rf"^ +{name} +\S", listed, re.M):
                    raise AssertionError(f"{file}: no line for {name} in {listed}")


def unknown():
    """an unknown program and a bad option fail by name"""
    g = Guest("nonsense")
    g.expect('FAIL boot: the command line names no program: "nonsense"')
    g.end(FAIL)
    g = Guest("dirty fill=8x")
    g.expect("FAIL dirty: option fill: a number is expected")
    g.end(FAIL)


def ends():
    """end= chooses how the machine ends"""
    Guest("hello end=exit:5").end(5 << 1 | 1)
    Guest("hello end=triple").end(0)
    g = Guest("hello end=halt")
    g.expect("PASS hello\n")
    if g.process.poll() is not None:
        raise AssertionError("end=halt ended")
    g.process.kill()
    g.process.wait()


def ticks(options, least, most):
    g = Guest(f"tick seconds=1 {options}")
    n = int(g.expect(r"tick n=(\d+) .*\nPASS").group(1))
    if not least <= n <= most:
        raise AssertionError(f"{n} ticks")
    g.end(PASS)


def tick_lapic():
    """tick counts the LAPIC timer, spinning and halted"""
    ticks("timer=lapic", 50, 110)
    ticks("timer=oneshot idle=1 hz=50", 20, 55)


def tick_pit():
    """tick counts the PIT"""
    ticks("timer=pit idle=1", 50, 110)


def dirty():
    """dirty answers on the console and verifies all of its memory"""
    g = Guest("dirty fill=8 ws=4 rate=100 content=mixed")
    g.expect("dirty ready fill=8 ws=4\n")
    g.send("s")
    first = g.expect(r"dirty rounds=\d+ mib=\d+ gap_us=\d+ now_ns=(\d+) ")
    g.send("v")
    g.expect("verify ok pages=3072 ")
    g.send("s")
    second = g.expect(r"dirty rounds=\d+ mib=\d+ gap_us=\d+ now_ns=(\d+) ")
    if int(second.group(1)) <= int(first.group(1)):
        raise AssertionError("time stands still")
    g.send("q")
    g.expect("verify ok")
    g.passes("dirty")


def dirty_caught():
    """dirty names the address where one bit of its memory was changed"""
    file, args = shared_memory("ram", 64)
    g = Guest("dirty fill=16 ws=4 rate=50", *args)
    g.expect("dirty ready")
    flip(file, 0x800124)
    g.send("v")
    g.expect("FAIL dirty: gpa 0x800120: page")
    g.end(FAIL)


def hash_caught():
    """hash is stable, and changes with one bit of memory"""
    Guest("hash fill=4 rounds=3", memory=32).passes("hash")
    file, args = shared_memory("ram", 32)
    g = Guest("hash fill=4 seconds=20", *args, memory=32)
    g.expect("round=1 .* same")
    flip(file, 0x1F00000)
    g.expect("FAIL hash: the digest was")
    g.end(FAIL)


def smp():
    """smp passes the token on 1, 2 and 4 CPUs"""
    for cpus in 1, 2, 4:
        g = Guest("smp rounds=20", cpus=cpus)
        g.expect(f"smp cpus={cpus} rounds=20 ipis={20 * cpus} ")
        g.passes("smp")
    g = Guest("smp idle=0 rounds=10", cpus=2)
    g.passes("smp")


def smp_missing():
    """smp says which CPU does not start"""
    g = Guest("smp cpus=2", cpus=1)
    g.expect("FAIL smp: CPU with APIC id 1 does not start")
    g.end(FAIL)


def vio():
    """vio drives disk, console and entropy, in every mode of the rings"""
    for options in "", "irq=1", "indirect=0", "event_idx=0 irq=1", "indirect=0 event_idx=0":
        g = Guest(f"vio lines=20 {options}", *virtio(1000 * 512))
        g.expect('vio blk id="ferrydisk" sectors=1000 ')
        g.expect("vio blk rounds=1 .* checked")
        g.passes("vio")
        with open(path("console")) as f:
            lines = f.read().splitlines()
        if lines != [f"vio line {i:08}" for i in range(20)]:
            raise AssertionError(f"{options}: the console got {len(lines)} lines: {lines[-3:]}")


def vio_long():
    """vio goes on with many requests in flight until it is told to finish"""
    g = Guest("vio dev=blk seconds=20 depth=32 irq=1", *virtio(1 << 20))
    g.expect("vio ready")
    g.send("s")
    g.expect("vio blk rounds=")
    g.send("q")
    g.expect(r"vio blk rounds=\d+ .* checked")
    g.passes("vio")


def vio_caught():
    """vio sees that a disk forgot what was written"""
    g = Guest("vio dev=blk seconds=20", *virtio(1 << 20))
    g.expect("vio ready")
    rounds = 0
    while not rounds:
        g.send("s")
        rounds = int(g.expect(r"vio blk rounds=(\d+)").group(1))
    with open(path("disk"), "r+b") as f:
        f.write(bytes(1 << 20))
    g.expect(r"FAIL vio: blk: sector \d+: chunk \d+, generation \d+ is expected")
    g.end(FAIL)


def cpu():
    """cpu watches what the CPU has and skips by name what it has not"""
    g = Guest("cpu seconds=1")
    g.expect("checked: avx\n")
    g.passes("cpu")
    g = Guest("cpu seconds=1", cpu="qemu64")
    g.expect(r"skip: avx \(no XSAVE\)\n")
    g.passes("cpu")


TESTS = [hello, small, registry, unknown, ends, tick_lapic, tick_pit, dirty, dirty_caught,
         hash_caught, smp, smp_missing, vio, vio_long, vio_caught, cpu]

if not QEMU:
    print("1..0 # SKIP no qemu-system-x86_64 (package qemu-system-x86)")
    sys.exit(0)
if not os.path.exists(ELF):
    print(f"Bail out! {ELF} is not built (make guest)")
    sys.exit(1)
print(f"1..{len(TESTS)}")
for each in TESTS:
    test(each)
sys.exit(1 if failed else 0)
