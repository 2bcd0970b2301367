#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Boot formats other than that of the test kernel: tiny kernels that print what they are handed, and files that are no
kernels, each refused by name."""

import gzip
import os
import re
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import ferrytest as t

PASSED = 0x2A << 1 | 1
SOURCES = os.path.join(t.TOP, "tests", "system", "boot")
NO_TOOLS = "as, ld or objcopy is missing or knows no i386"


def path(name, content=None):
    full = os.path.join(t.scratch, name)
    if content is not None:
        with open(full, "wb") as f:
            f.write(content)
    return full


def assemble(source, address, binary=False, **symbols):
    """An ELF32 linked at @address, or the flat binary that it is loaded as; None without the tools."""
    name = path("%s-%s" % (source, "-".join("%s%x" % s for s in symbols.items())))
    commands = [["as", "--32", "-I", SOURCES, "-o", name + ".o", os.path.join(SOURCES, source)] +
                ["--defsym=%s=%d" % s for s in symbols.items()],
                ["ld", "-m", "elf_i386", "-N", "-Ttext=0x%x" % address, "-e", "start", "-o", name, name + ".o"]]
    if binary:
        commands.append(["objcopy", "-O", "binary", name, name + ".bin"])
    for command in commands:
        try:
            if subprocess.call(command, stderr=subprocess.DEVNULL) != 0:
                return None
        except FileNotFoundError:
            return None
    return name + ".bin" if binary else name


def output(*options):
    """What a machine prints until it ends, which must be by passing."""
    m = t.Machine("run", *options)
    text = m.rest()
    t.same(m.wait(), PASSED, "exit status")
    t.same(m.stderr(), "", "stderr")
    return text


def check_multiboot(kernel, initrd):
    options = ["--kernel", kernel, "--memory", "32", "--cmdline", "one two=3"]
    text = output(*options, *(["--initrd", initrd] if initrd else []))
    for line in ("magic 2badb002", "cmdline one two=3", "bss 00000000", "lower 0000027f", "upper 00007c00",
                 "range 00000000 00000000 0009fc00 00000000 00000001",
                 "range 00100000 00000000 01f00000 00000000 00000001"):
        t.check(line + "\n" in text, "%r is not in %r" % (line, text))
    modules = re.findall("^module (.*)$", text, re.MULTILINE)
    if initrd:
        t.same(modules.pop(0), "initrd 00001389 64636261 68676665", "first module")
    t.check(len(modules) == 1 and re.fullmatch("fdt [0-9a-f]{8} edfe0dd0 [0-9a-f]{8}", modules[0]),
            "the last module: %r" % modules)


@t.test
def multiboot_by_ELF_headers():
    for flags in (0, 3):
        kernel = assemble("multiboot.S", 0x100000, FLAGS=flags)
        if not kernel:
            return NO_TOOLS
        check_multiboot(kernel, path("initrd", b"abcdefgh" + b"x" * 4993))
        check_multiboot(kernel, None)


@t.test
def multiboot_by_address_fields():
    kernel = assemble("multiboot.S", 0x100000, binary=True, FLAGS=0x10003)
    if not kernel:
        return NO_TOOLS
    with open(kernel, "rb") as f:
        t.check(f.read(4) != b"\x7fELF", "the kernel is an ELF")
    check_multiboot(kernel, path("initrd", b"abcdefgh" + b"x" * 4993))


@t.test
def multiboot_above_4_GiB():
    kernel = assemble("multiboot.S", 0x100000, FLAGS=0)
    if not kernel:
        return NO_TOOLS
    text = output("--kernel", kernel, "--memory", "5G")
    for line in ("range 00100000 00000000 bff00000 00000000 00000001",
                 "range 00000000 00000001 80000000 00000000 00000001"):
        t.check(line + "\n" in text, "%r is not in %r" % (line, text))


@t.test
def a_teaching_kernel_of_screen_PIC_and_PIT():
    kernel = assemble("teaching.S", 0x100000)
    if not kernel:
        return NO_TOOLS
    started = time.monotonic()
    text = output("--kernel", kernel, "--memory", "4")
    t.same(text, "screen %08x\nabsent port ffffffff\nmasks 0000fffe\nticks 00000014\n" % (80 * 25), "what it found")
    # 20 ticks of 10 ms, of which the first may come at once.
    t.check(time.monotonic() - started >= 0.19, "20 ticks in less than 190 ms")


@t.test
def flat_in_real_mode():
    kernel = assemble("flat.S", 0, binary=True, BITS=16)
    if not kernel:
        return NO_TOOLS
    for address in (0x7C00, 0x1000, 0x50000, 0x12340):
        text = output("--kernel", kernel, "--flat", "0x%x" % address, "--memory", "2")
        t.same(text, "0 %08x 00007c00\n" % address, "mode, address, stack")


@t.test
def flat_in_protected_mode():
    kernel = assemble("flat.S", 0, binary=True, BITS=32)
    if not kernel:
        return NO_TOOLS
    for address in (0x100000, 0x123456):
        text = output("--kernel", kernel, "--flat", "0x%x" % address, "--memory", "16")
        t.same(text, "1 %08x 00007c00\n" % address, "mode, address, stack")
    # And by a tree, which says the same.
    dtb = path("flat.dtb")
    t.same(t.ferry("run", "--kernel", kernel, "--flat", "0x200000", "--memory", "16", "--dump-dtb", dtb)[0], 0, "status")
    t.same(output(dtb), "1 00200000 00007c00\n", "mode, address, stack")


def refused(naming, *options):
    status, out, err = t.ferry("run", *options)
    t.same((status, out), (1, ""), "%r: %s" % (options, err))
    for word in naming.split():
        t.check(word in err, "%r is not in %r" % (word, err))


@t.test
def what_is_no_kernel_is_refused_by_what_it_looks_like():
    with open(t.GUEST, "rb") as f:
        guest = f.read()
    arm = bytearray(guest)
    arm[18:20] = b"\xb7\0"
    for naming, content in (("gzip", gzip.compress(guest)), ("AArch64", bytes(arm)), ("xz", b"\xfd7zXZ\0" + bytes(99)),
                            ("boot sector --flat", bytes(510) + b"\x55\xaa"), ("script", b"#!/bin/sh\n"),
                            ("beginning 00 01 02", bytes(range(99))), ("beginning 07", b"\x07")):
        refused(naming, "--kernel", path("strange", content))
    refused("multiboot flags 0x4", "--kernel",
            path("video", bytes.fromhex("02b0ad1b 04000000") + (-0x1BADB006 & 0xFFFFFFFF).to_bytes(4, "little")))


@t.test
def flat_binaries_that_do_not_fit():
    kernel = path("flat", bytes(4096))
    refused("--flat 0x1ff001 4096", "--kernel", kernel, "--flat", "0x1ff001", "--memory", "2")
    refused("--flat 0xfffff000", "--kernel", kernel, "--flat", "0xfffff000")
    refused("--cmdline", "--kernel", kernel, "--flat", "0x7c00", "--cmdline", "x")
    refused("--initrd", "--kernel", kernel, "--flat", "0x7c00", "--initrd", kernel)


t.main()
