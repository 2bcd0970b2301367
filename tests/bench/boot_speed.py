# SPDX-License-Identifier: BSD-2-Clause
"""How long stock Linux takes from the exec of the VMM to its /init: the same kernel, initramfs and words, by turns."""

import os
import time

from machines import QEMU, Failed, Ferry, Qemu, ferrytest
import linuxtest

MEMORY = 256
MARK = "ferry-linux init"       # the first thing that guest/linux/init says
# What was quickest of QEMU's microvm in trials: without ACPI it needs the CMOS clock, which the kernel else looks for in
# vain; option ROMs help only with ACPI. The better of the two counts.
KINDS = {"QEMU": "acpi=on", "QEMU, no ACPI": "acpi=off,rtc=on,x-option-roms=off"}


def command(contender, folder):
    kernel, initramfs = (os.path.join(folder, name) for name in ("vmlinuz", "initramfs"))
    words = linuxtest.kernel_words().strip()
    if isinstance(contender, Ferry):
        return [ferrytest.FERRY, "run", "--kernel", kernel, "--initrd", initramfs, "--cmdline", words, "--memory",
                f"{MEMORY}M", "--serial", "stdio"]
    return [QEMU, "-M", f"microvm,accel=kvm,{KINDS[contender.name]}", "-cpu", "host", "-nodefaults",
            "-no-user-config", "-display", "none", "-no-reboot", "-m", str(MEMORY), "-kernel", kernel, "-initrd",
            initramfs, "-append", words, "-serial", "stdio"]


def run(contender, folder):
    """Seconds, or why there are none."""
    began = time.monotonic()
    machine = contender.start(command(contender, folder))
    try:
        machine.expect(MARK)
        return {"total": time.monotonic() - began}
    except (Failed, OSError) as e:
        return {"failed": str(e)}
    finally:
        machine.end()


def describe(result):
    return "failed: " + result["failed"] if "failed" in result else f"{result['total']:.3f} s"


def measure_boot(a, say):
    """Runs of each contender; None, having said so, where the little Linux cannot be packed."""
    folder = os.path.join(ferrytest.BUILD, "bench-linux")
    why = linuxtest.pack(folder)
    if why:
        say(f"bench: boot left out: {why}")
        return None
    turns = [Ferry("ferry", a)] + [Qemu(name, a) for name in KINDS]
    found = {c.name: [] for c in turns}
    for number in range(-a.warm_up, a.runs):
        for c in turns:
            result = run(c, folder)
            if number >= 0:
                found[c.name].append(result)
            say(f"boot {number + 1}/{a.runs} {c.name}: {describe(result)}")
        turns.append(turns.pop(0))
    return found
