#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Stock Linux as a guest: Debian's cloud kernel, unmodified, with the initramfs of guest/linux."""

import hashlib
import os
import re
import struct
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import ferrytest as t
from checks import at_home, both_named, end, held, owns_disk, receiver, start
from linuxtest import (background, check_no_complaints, check_nothing_unexpected, kernel_words, pack, power_off, ready,
                       shell)
from wire import Proxy, edit

FILES = os.path.join(t.scratch, "linux")
DISK_SIZE = 1 << 20
ROUNDS = int(os.environ.get("FERRY_TEST_ROUNDS", "10")) if os.environ.get("FERRY_TEST_FULL") == "1" else 1


def new_disk(name):
    path = os.path.join(t.scratch, name)
    data = b"".join(hashlib.sha256(b"%d" % i).digest() for i in range(DISK_SIZE // 32))
    with open(path, "wb") as f:
        f.write(data)
    return path, hashlib.sha256(data).hexdigest()


def boot(*options, cpus="1", memory="192", words="", kernel=None):
    line = kernel_words() + words
    m = t.Machine("run", "--kernel", kernel or os.path.join(FILES, "vmlinuz"), "--initrd",
                  os.path.join(FILES, "initramfs"), "--cmdline", line, "--memory", memory, "--cpus", cpus, *options)
    ready(m)
    return m


def move(source, *options):
    """Migrate to a new machine, which is returned; RAM is compared on the way."""
    destination = t.receive(None, *options)
    # Without a deadline: hashing all RAM in the blackout may take an emulated host longer.
    source.qmp.run("migrate-set-parameters", x_verify=True, x_deadline=0)
    source.qmp.run("migrate", uri=destination.uri)
    t.same(source.wait(), 0, "exit status of the source")
    t.same(source.stderr(), "", "stderr of the source")
    return destination


def needs_files(function):
    """A test that is skipped, with the reason, where there is no such kernel."""
    def run():
        return pack(FILES) or function()
    run.__name__ = function.__name__
    return t.test(run)


@needs_files
def a_shell_and_its_devices():
    disk, digest = new_disk("disk")
    console = os.path.join(t.scratch, "hvc")
    m = boot("--disk", disk, "--rng", "--console", "file:" + console)
    t.check("virtio" not in shell(m, "cat /proc/cmdline"), "no list of devices on the command line")
    t.same(shell(m, "nproc"), "1", "CPUs")
    t.same(shell(m, "sha256sum </dev/vda").split()[0], digest, "SHA-256 of /dev/vda")
    shell(m, "echo written by the guest | dd of=/dev/vda bs=512 seek=7 conv=sync,fsync 2>/dev/null")
    with open(disk, "rb") as f:
        f.seek(7 * 512)
        t.same(f.read(20), b"written by the guest", "what the guest wrote to the disk")
    shell(m, "echo over hvc0 >/dev/hvc0")
    t.wait_until(lambda: "over hvc0" in open(console).read(), "what was written to /dev/hvc0")
    t.same(shell(m, "cat /sys/class/misc/hw_random/rng_current"), "virtio_rng.0", "source of random numbers")
    t.same(shell(m, "head -c 64 /dev/hwrng | wc -c"), "64", "random bytes")
    data = "/sys/kernel/boot_params/setup_data/0/"
    t.same(shell(m, "cat %stype; head -c 4 %sdata | hexdump -e '4/1 \"%%02x\"'" % (data, data)), "0x2\nd00dfeed",
           "the machine tree as setup_data")
    t.check("PNP0501" in shell(m, "cat /sys/bus/acpi/devices/*/hid"), "the serial port is found by ACPI")
    power_off(m)


@needs_files
def nothing_unexpected_in_the_log():
    m = boot("--rng")
    check_nothing_unexpected(m)
    power_off(m)


@needs_files
def vcpus_come_up_by_SIPI():
    for cpus in ("2", "4"):
        m = boot(cpus=cpus)
        t.same(shell(m, "nproc"), cpus, "nproc")
        t.same(shell(m, "grep -c ^processor /proc/cpuinfo"), cpus, "processors in /proc/cpuinfo")
        for cpu in range(int(cpus)):
            shell(m, "taskset %x true" % (1 << cpu))
        power_off(m)


@needs_files
def memory_above_4_GiB():
    m = boot(memory="4G")
    total = int(shell(m, "grep MemTotal /proc/meminfo").split()[1])
    t.check(total > 3.8 * (1 << 20), "MemTotal is %d KiB" % total)
    t.check("100000000-13fffffff : System RAM" in shell(m, "grep System /proc/iomem"), "RAM above 4 GiB")
    power_off(m)


@needs_files
def reboot_boots_again():
    m = boot()
    for method in ("reboot -f", "echo b >/proc/sysrq-trigger"):
        m.send(method + "\n")
        ready(m)
        t.check(float(shell(m, "cat /proc/uptime").split()[0]) < 60 * t.SLOWNESS, "the kernel is a new one")
    m.qmp.run("system_reset")
    ready(m)
    power_off(m)


@needs_files
def the_power_button_is_seen():
    m = boot()
    t.check("LNXPWRBN" in shell(m, "cat /sys/bus/acpi/devices/*/hid"), "the guest knows the button")
    m.qmp.run("system_powerdown")
    m.qmp.event("POWERDOWN")
    t.same(m.wait(), 0, "exit status")


@needs_files
def a_button_pressed_while_paused_is_seen_elsewhere():
    source = boot()
    source.qmp.run("stop")
    source.qmp.run("system_powerdown")
    destination = move(source)
    t.same(destination.qmp.run("query-status")["status"], "paused", "status at the destination")
    destination.qmp.run("cont")
    t.same(destination.wait(), 0, "exit status")


@needs_files
def reboot_and_power_button_after_a_migration():
    m = move(boot("--rng"))
    m.send("reboot -f\n")
    ready(m)
    t.same(shell(m, "cat /sys/class/misc/hw_random/rng_current"), "virtio_rng.0", "source of random numbers")
    m.qmp.run("system_powerdown")
    t.same(m.wait(), 0, "exit status")


@needs_files
def without_ACPI_and_APIC_there_are_PIC_and_PIT():
    m = boot(words="acpi=off nolapic noapic")
    interrupts = shell(m, "cat /proc/interrupts")
    for line in ("timer", "ttyS0"):
        t.check(re.search(r"[1-9]\d* +XT-PIC +%s" % line, interrupts), "no interrupt of %s: %s" % (line, interrupts))
    m.send("reboot -f\n")                         # by the keyboard controller
    ready(m)
    m.process.terminate()
    t.same(m.wait(), 0, "exit status")


@needs_files
def a_timer_of_an_idle_guest_survives_two_moves():
    """Both vCPUs are halted when it is paused, and the timer's deadline is in their local APICs."""
    m = boot(cpus="2")
    seconds = 2 * t.SLOWNESS
    background(m, "a=$(cut -d' ' -f1 /proc/uptime); sleep %d; echo $a $(cut -d' ' -f1 /proc/uptime) >/rang" % seconds)
    started = time.monotonic()
    for _ in range(2):
        m = move(m)
    early = time.monotonic() - started < 0.8 * seconds
    t.same(shell(m, "ls /rang 2>/dev/null; true"), "", "the timer rang after %.1f s" % (time.monotonic() - started)) if early else None
    t.wait_until(lambda: shell(m, "ls /rang 2>/dev/null; true"), "the timer to ring", timeout=seconds + t.PATIENCE)
    at, rang = map(float, shell(m, "cat /rang").split())
    t.check(seconds <= rang - at + 0.02 and rang - at < seconds + 0.5 + 0.5 * t.SLOWNESS,
            "a timer of %d s rang after %.2f s" % (seconds, rang - at))
    power_off(m)
    return None if early else "the moves took longer than the timer, which rang meanwhile"


@needs_files
def migration_in_early_boot():
    """Each time another part of the kernel is at work: one CPU before its timer, the second one's start, drivers."""
    m = t.Machine("run", "--kernel", os.path.join(FILES, "vmlinuz"), "--initrd", os.path.join(FILES, "initramfs"),
                  "--cmdline", kernel_words().replace("quiet loglevel=1", "earlyprintk=serial"), "--memory", "192",
                  "--cpus", "2", "--rng")
    for words in ("Linux version", "Booting SMP configuration|smp: Bringing up", "unpack rootfs image"):
        m.expect(words)
        m = move(m)
    ready(m)
    t.same(shell(m, "nproc"), "2", "CPUs")
    power_off(m)


# What differs: the record that is altered, the @nth of its name, and how; options of the destination; words of the error.
compat = t.script("compat")
UNFIT = [("HELLO", 2, compat.prop("", "version-min", bytes(7) + b"\2"), [], ("version", "1 to 1")),
         ("HELLO", 2, compat.prop("", "machine", b"ferry,machine-riscv64\0"), [], ("machine", "x86_64", "riscv64")),
         ("MACHINE", 1, compat.cpu_feature(1, 2), [], ("cpus", "CPUID.1:ECX", "bit")),
         ("MACHINE", 1, compat.cpu_vendor, [], ("cpus", "vendor")),
         ("MACHINE", 1, compat.memory(0, 1 << 40), [], ("memory@0", "layout")),
         ("MACHINE", 1, compat.stranger, [], ("toaster@d0005000", "acme,toaster")),
         (None, 1, None, ["--disk", "larger"], ("virtio-blk", "size", "larger"))]


@needs_files
def what_does_not_fit_is_refused_before_any_RAM():
    """By name, on both sides, the more so as Linux is at work meanwhile and goes on unharmed."""
    disk, digest = new_disk("disk-unfit")
    with open(os.path.join(t.scratch, "larger"), "wb") as f:
        f.truncate(2 * DISK_SIZE)
    m = boot("--disk", disk, "--rng", cpus="2")
    background(m, "while sha256sum </dev/vda >/sum.new; do mv /sum.new /sum; date +%s >/last; done")
    since, boot_id = uptime(m), shell(m, "cat /proc/sys/kernel/random/boot_id")
    m.qmp.run("query-migrate")
    before = held(m)
    for name, nth, change, options, words in UNFIT:
        destination = receiver(*(os.path.join(t.scratch, o) if o == "larger" else o for o in options))
        proxy = Proxy(destination.uri, name, edit(change) if change else None, nth)
        start(m, proxy.uri)
        report = end(m)
        both_named(report, m, destination, *words)
        pages = report["ram"]["normal"] + report["ram"]["duplicate"]
        t.same((proxy.count("RAM"), pages), (0, 0), "RAM records and pages sent, for all that %r differs" % (words,))
        at_home(m, before, check=False)
        t.check(owns_disk(m), "the source has not got its disk")
        t.same(shell(m, "cat /proc/sys/kernel/random/boot_id"), boot_id, "boot id")
    destination = receiver()
    start(m, destination.uri)
    t.same(m.wait(), 0, "exit status of the source")
    now = shell(destination, "date +%s")
    shell(destination, "while [ $(cat /last) -lt %s ]; do usleep 100000; done" % now)
    t.same(shell(destination, "cut -c1-64 /sum"), digest, "SHA-256 of /dev/vda")
    check_no_complaints(destination, since)
    power_off(destination)


def slow_migration(m):
    """One that is still under way after whatever the guest does next; the destination."""
    destination = t.receive()
    m.qmp.run("migrate-set-parameters", max_bandwidth=256 << 10)
    m.qmp.run("migrate", uri=destination.uri)
    m.qmp.event("MIGRATION", match=lambda d: d["status"] == "active")
    return destination


@needs_files
def poweroff_in_the_middle_of_a_migration():
    m = boot()
    destination = slow_migration(m)
    m.send("poweroff -f\n")
    t.same(m.wait(), 0, "exit status of the source")
    t.same(destination.wait(), 1, "exit status of the destination, which has no guest")
    t.check(destination.stderr(), "the destination says nothing")


@needs_files
def reboot_in_the_middle_of_a_migration():
    m = boot()
    destination = slow_migration(m)
    m.send("reboot -f\n")
    ready(m)                            # the new kernel, still here
    since = uptime(m)
    t.same(m.qmp.run("query-migrate")["status"], "active", "status of the migration")
    m.qmp.run("migrate-set-parameters", max_bandwidth=0)
    t.same(m.wait(), 0, "exit status of the source; it said: " + m.stderr())
    check_no_complaints(destination, since)
    power_off(destination)


@needs_files
def a_balloon_and_all_other_devices():
    disk, digest = new_disk("disk-all")
    net = ["--net", "tap,name=ferrylx%d"] if os.geteuid() == 0 and os.path.exists("/dev/net/tun") else []

    def options(n):
        return ["--disk", disk] + [o.replace("%d", str(n)) for o in net]
    m = boot("--rng", "--console", "file:" + disk + ".hvc", "--balloon", *options(0))
    t.same(shell(m, "ls /sys/bus/virtio/drivers/virtio_balloon | grep -c ^virtio"), "1", "devices of the balloon's driver")
    kinds = shell(m, "cat /sys/bus/virtio/devices/*/device").split()
    t.same(sorted(int(k, 16) for k in kinds), ([1] if net else []) + [2, 3, 4, 5], "kinds of virtio devices")

    # MemTotal stays: the driver gives RAM back by itself when it runs out (VIRTIO_BALLOON_F_DEFLATE_ON_OOM).
    def free():
        return int(shell(m, "grep MemFree /proc/meminfo").split()[1]) << 10
    before = free()
    for target in (128 << 20, 192 << 20):
        m.qmp.run("balloon", value=target)
        m.qmp.event("BALLOON_CHANGE", match=lambda d: d["actual"] == target)
        missing = before - free()
        t.check(abs(missing - ((192 << 20) - target)) < 8 << 20, "the guest misses %d bytes" % missing)
    # Free, but full of what is no zero: without hints it goes over the wire.
    shell(m, "yes 0123456789 | head -c 48M >/fill; rm /fill; sync; echo 3 >/proc/sys/vm/drop_caches")
    since = uptime(m)
    found = []
    for n, parameters in ((1, {"x_verify": True}), (0, {"x_verify": False, "max_bandwidth": 8 << 20})):
        destination = t.receive(None, *options(n))
        m.qmp.run("migrate-set-parameters", **parameters)
        m.qmp.run("migrate", uri=destination.uri)
        report = m.qmp.event("MIGRATION", match=lambda d: "x-info" in d)["data"]["x-info"]
        t.same(report["status"], "completed", "status of the migration; " + m.stderr())
        t.same(m.wait(), 0, "exit status of the source")
        found.append((report["ram"]["transferred"], report["x-ferry"]["pages-hinted"]))
        m = destination
    print("# bytes sent and pages hinted, without and with hints: %r" % found)
    t.same(found[0][1], 0, "pages hinted with x-verify")
    # What that saves balloon.t measures; here the guest may have reported (REPORTING) the same pages before.
    t.check(found[1][1] > 8192, "too few pages hinted: %r" % found)
    t.same(shell(m, "sha256sum </dev/vda").split()[0], digest, "SHA-256 of /dev/vda")
    # The pages are the guest's again.
    shell(m, "yes 0123456789 | head -c 48M >/fill; yes 0123456789 | head -c 48M | cmp - /fill; rm /fill")
    check_no_complaints(m, since)
    check_nothing_unexpected(m)
    power_off(m)


@needs_files
def an_upgrade_of_ferry_under_it():
    """RAM changes hands by its descriptor, the disk by its own, the console's client stays."""
    disk, digest = new_disk("disk-upgrade")
    m = boot("--memory-backing", "shared", "--disk", disk, "--rng", cpus="2")
    since, boot_id = uptime(m), shell(m, "cat /proc/sys/kernel/random/boot_id")
    for _ in range(2):
        m._qmp and m._qmp.close()
        m._qmp = None
        status, out, err = t.ferry("upgrade", m.control)
        t.same((status, err), (0, ""), "ferry upgrade: " + out)
        t.same(shell(m, "cat /proc/sys/kernel/random/boot_id"), boot_id, "boot id")
    t.same(shell(m, "sha256sum </dev/vda").split()[0], digest, "SHA-256 of /dev/vda")
    t.same(shell(m, "cat /sys/devices/system/clocksource/clocksource0/current_clocksource"), "kvm-clock",
           "clock source")
    guest, host = int(shell(m, "date +%s")), time.time()
    t.check(abs(guest - host) < 2 + 0.2 * t.SLOWNESS, "the guest's date is %d, the host's %.1f" % (guest, host))
    check_no_complaints(m, since)
    power_off(m)


def uptime(m):
    return float(shell(m, "cat /proc/uptime").split()[0])


def cross(cpus):
    """There and back, with work going on: a checksum of the disk, again and again, and a clock that is watched."""
    disk, digest = new_disk("disk-" + cpus)
    m = boot("--disk", disk, "--rng", "--console", "file:" + disk + ".hvc", cpus=cpus)
    background(m, "while sha256sum </dev/vda >/tmp.new; do mv /tmp.new /sum; date +%s >/last; done")
    before, at = uptime(m), time.monotonic()
    boot_id = shell(m, "cat /proc/sys/kernel/random/boot_id")
    background(m, "last=0; while usleep 5000; do read now idle </proc/uptime; now=${now%.*}${now#*.}; "
               "[ $now -ge $last ] || echo $last $now >>/back; last=$now; done")
    for _ in range(2 * ROUNDS):
        m = move(m, "--disk", disk)
        t.same(shell(m, "cat /proc/sys/kernel/random/boot_id"), boot_id, "boot id")
    passed, real = uptime(m) - before, time.monotonic() - at
    t.check(abs(passed - real) < 0.5 * t.SLOWNESS, "uptime advanced by %.2f s in %.2f s" % (passed, real))
    guest, host = int(shell(m, "date +%s")), time.time()
    t.check(abs(guest - host) < 2 + 0.2 * t.SLOWNESS, "the guest's date is %d, the host's %.1f" % (guest, host))
    t.same(shell(m, "nproc"), cpus, "CPUs")
    t.same(shell(m, "cat /sys/devices/system/clocksource/clocksource0/current_clocksource"), "kvm-clock",
           "clock source")
    # The work went on: newer than the last crossing.
    now = shell(m, "date +%s")
    shell(m, "while [ $(cat /last) -lt %s ]; do usleep 100000; done" % now)
    t.same(shell(m, "cut -c1-64 /sum"), digest, "SHA-256 of /dev/vda")
    shell(m, "echo still here >/dev/hvc0; head -c 16 /dev/hwrng >/dev/null")
    t.same(shell(m, "cat /back 2>/dev/null; true"), "", "where the guest's clock went back")
    check_no_complaints(m, before)
    power_off(m)


@needs_files
def migration_there_and_back():
    cross("1")


@needs_files
def migration_there_and_back_with_2_vcpus():
    cross("2")


def unpack(bzimage, vmlinux):
    """The ELF inside of a bzImage that was packed by LZ4; why not, where that cannot be done."""
    with open(bzimage, "rb") as f:
        image = f.read()
    setup = (image[0x1F1] + 1) * 512
    offset, length = struct.unpack_from("<II", image, 0x248)
    payload = image[setup + offset:setup + offset + length - 4]
    if payload[:4] != b"\x02\x21\x4c\x18":
        return "the kernel is not packed by LZ4"
    try:
        with open(vmlinux, "wb") as f:
            status = subprocess.run(["lz4", "-dc"], input=payload, stdout=f, stderr=subprocess.DEVNULL).returncode
    except FileNotFoundError:
        return "no lz4 to unpack the kernel"
    t.same(status, 0, "status of lz4")
    return None


@needs_files
def an_uncompressed_kernel_by_its_PVH_note():
    vmlinux = os.path.join(t.scratch, "vmlinux")
    skip = unpack(os.path.join(FILES, "vmlinuz"), vmlinux)
    if skip:
        return skip
    m = boot("--rng", cpus="2", kernel=vmlinux)
    t.same(shell(m, "nproc"), "2", "CPUs, which ACPI tells of")
    t.same(shell(m, "cat /sys/class/misc/hw_random/rng_current"), "virtio_rng.0", "source of random numbers")
    power_off(m)
    return None


t.main()
