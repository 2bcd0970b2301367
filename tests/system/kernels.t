#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Linux kernels other than Debian's cloud kernel, by what each of them knows of a machine.

They are looked for in build/kernels, where tests/system/kernels/make puts them (make lab-kernels), and Debian's generic
kernel in /boot, too."""

import glob
import os
import re
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import ferrytest as t
from linuxtest import kernel_words, pack, power_off, ready, shell

FILES = os.path.join(t.scratch, "linux")
KERNELS = os.path.join(t.TOP, "build", "kernels")
PASSED = 0x2A << 1 | 1


def kernel(name):
    return os.path.join(KERNELS, name)


def needs(*names):
    """A test of kernels; skipped, with the names of those that are not there."""
    def decorate(function):
        def run():
            missing = [name for name in names if not os.path.exists(kernel(name))]
            if missing:
                return "no %s in build/kernels (make lab-kernels makes them)" % ", ".join(missing)
            return pack(FILES) or function()
        run.__name__ = function.__name__
        return t.test(run)
    return decorate


def boot(image, words="", *options, cpus="1", memory="256"):
    m = t.Machine("run", "--kernel", image, "--initrd", os.path.join(FILES, "initramfs"), "--cmdline",
                  kernel_words() + words, "--memory", memory, "--cpus", cpus, *options)
    ready(m)
    return m


def interrupts(m, name):
    """Where an interrupt comes from, as /proc/interrupts has it, and how often it came to each CPU."""
    text = shell(m, "cat /proc/interrupts")
    found = re.search(r"^ *\w+:((?: +\d+)+) +(.*%s.*)$" % name, text, re.MULTILINE)
    t.check(found, "no interrupt of %s in\n%s" % (name, text))
    return found[2], sum(map(int, found[1].split()))


def check_interrupts_come(m, name, kind, cause):
    """One of @name is of @kind, and comes when the guest does @cause."""
    where, before = interrupts(m, name)
    t.check(re.search(kind, where), "the interrupt of %s is %r" % (name, where))
    shell(m, cause)
    after = interrupts(m, name)[1]
    t.check(after > before, "no interrupt of %s came: %d before, %d after" % (name, before, after))


def check_all_cpus_run(m, cpus):
    t.same(shell(m, "nproc"), cpus, "CPUs")
    for cpu in range(int(cpus)):
        shell(m, "taskset %x true" % (1 << cpu))


def crossed(m, *options):
    destination = t.receive(None, *options)
    m.qmp.run("migrate-set-parameters", x_verify=True, x_deadline=0)
    m.qmp.run("migrate", uri=destination.uri)
    t.same(m.wait(), 0, "exit status of the source; it said: " + m.stderr())
    return destination


@needs("vmlinuz-amd64")
def MP_tables_tell_Debians_generic_kernel_of_its_CPUs():
    m = boot(kernel("vmlinuz-amd64"), "acpi=off", cpus="2")
    check_all_cpus_run(m, "2")
    t.check("MPTABLE: OEM ID: FERRY" in shell(m, "dmesg"), "the MP tables were not read")
    check_interrupts_come(m, "ttyS0", "IO-APIC +4-edge", "cat /proc/interrupts")
    m = crossed(m)
    check_all_cpus_run(m, "2")
    check_interrupts_come(m, "ttyS0", "IO-APIC +4-edge", "cat /proc/interrupts")


def check_tree(image, words, cpus):
    """All devices are found by SETUP_DTB, for there is no ACPI, and nothing on the command line names them."""
    disk = os.path.join(t.scratch, "disk-%s" % cpus)
    with open(disk, "wb") as f:
        f.write(b"found by its tree".ljust(1 << 20, b"."))
    hvc = disk + ".hvc"
    m = boot(image, words, "--disk", disk, "--rng", "--console", "file:" + hvc, cpus=cpus)
    check_all_cpus_run(m, cpus)
    t.same(shell(m, "ls -d /sys/firmware/acpi 2>/dev/null; cat /proc/device-tree/compatible | tr -d '\\0'"),
           "ferry,machine-x86_64", "the tree, and no ACPI")
    t.same(shell(m, "head -c 17 /dev/vda"), "found by its tree", "what is on the disk")
    check_interrupts_come(m, "virtio0", "IO-APIC", "dd if=/dev/vda of=/dev/null bs=64k iflag=direct")
    check_interrupts_come(m, "ttyS0", "IO-APIC|XT-PIC", "cat /proc/interrupts")
    t.same(shell(m, "head -c 64 /dev/hwrng | wc -c"), "64", "random bytes")
    shell(m, "echo over hvc0 >/dev/hvc0")
    t.wait_until(lambda: "over hvc0" in open(hvc).read(), "what was written to /dev/hvc0")
    m = crossed(m, "--disk", disk)
    check_interrupts_come(m, "virtio0", "IO-APIC", "dd if=/dev/vda of=/dev/null bs=64k iflag=direct")
    check_all_cpus_run(m, cpus)


@needs("bzImage-of64")
def a_device_tree_tells_a_64_bit_kernel_without_ACPI_of_all():
    check_tree(kernel("bzImage-of64"), "", "1")


@needs("bzImage-of64")
def a_device_tree_tells_of_2_CPUs():
    check_tree(kernel("bzImage-of64"), "", "2")


def initramfs32():
    """A cpio archive of one program, and a folder to mount on; None without the tools."""
    folder = os.path.join(t.scratch, "init32")
    os.makedirs(os.path.join(folder, "proc"), exist_ok=True)
    os.makedirs(os.path.join(folder, "dev"), exist_ok=True)
    source = os.path.join(t.TOP, "tests", "system", "boot", "init32.S")
    subprocess.run(["as", "--32", "-o", folder + ".o", source], check=True)
    subprocess.run(["ld", "-m", "elf_i386", "-e", "start", "-o", folder + "/init", folder + ".o"], check=True)
    console = os.path.join(folder, "dev", "console")
    if not os.path.exists(console):
        os.mknod(console, 0o600 | 0o020000, os.makedev(5, 1))
    names = "dev\ndev/console\nproc\ninit\n"
    archive = subprocess.run(["cpio", "-o", "-H", "newc", "--quiet"], input=names.encode(), cwd=folder, check=True,
                             stdout=subprocess.PIPE).stdout
    with open(folder + ".cpio", "wb") as f:
        f.write(archive)
    return folder + ".cpio"


@needs("vmlinux-pic32")
def a_32_bit_kernel_of_PIC_and_PIT_boots_by_its_PVH_note():
    m = t.Machine("run", "--kernel", kernel("vmlinux-pic32"), "--initrd", initramfs32(), "--memory", "32", "--cmdline",
                  "console=ttyS0")
    text = m.rest()
    t.same(m.wait(), PASSED, "exit status after %r" % text[-2000:])
    for line in ("timer", "ttyS0"):
        t.check(re.search(r": +[1-9]\d* +XT-PIC +%s" % line, text), "no interrupt of %s: %s" % (line, text[-2000:]))
    t.check("APIC:" not in text, "this kernel knows an APIC")


@needs("bzImage-pic32")
def a_32_bit_bzImage_is_refused_by_name():
    for image in [kernel("bzImage-pic32")] + glob.glob(kernel("vmlinuz-686")):
        status, out, err = t.ferry("run", "--kernel", image, "--memory", "64")
        t.same((status, out), (1, ""), "status and output")
        for word in ("xloadflags", "64-bit entry", "32-bit kernel"):
            t.check(word in err, "%r is not in %r" % (word, err))


t.main()
