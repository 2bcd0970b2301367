#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""ferry run: the test kernel boots, runs its programs, and ends the way it wants to."""

import os
import signal
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import ferrytest as t

PASSED = 0x2A << 1 | 1
FAILED = 1 << 1 | 1


def program(name, *options, **kw):
    """Run a program that ends by itself; it must pass."""
    m = t.run(name, *options, **kw)
    m.expect(r"^PASS " + name.split()[0])
    t.same(m.wait(), PASSED, "exit status")
    t.same(m.stderr(), "", "stderr")


@t.test
def hello():
    program("hello")


@t.test
def hello_from_a_32_bit_ELF():
    elf32 = os.path.join(t.scratch, "elf32")
    if subprocess.call(["objcopy", "-O", "elf32-i386", t.GUEST, elf32]) != 0:
        return "objcopy cannot write ELF32"
    m = t.Machine("run", "--kernel", elf32, "--cmdline", "hello")
    m.expect(r"^PASS hello")
    t.same(m.wait(), PASSED, "exit status")


@t.test
def hello_with_255_vcpus():
    program("hello", cpus="255", memory="32")


@t.test
def all_of_32_vcpus_start():
    program("smp rounds=1", cpus="32")


@t.test
def hello_with_the_smallest_memory():
    program("hello", memory="2")


@t.test
def hello_with_an_odd_amount_of_memory():
    program("hello", memory="%dK" % (37 * 1024 + 4))


@t.test
def hello_with_memory_above_4_GiB():
    m = t.run("hello", memory="5G")
    m.expect(r"^PASS hello")
    t.same(m.wait(), PASSED, "exit status")


@t.test
def tick():
    program("tick seconds=1 hz=50")


@t.test
def tick_halted_between_ticks():
    program("tick seconds=1 hz=50 idle=1")


@t.test
def dirty():
    program("dirty seconds=1 fill=4 ws=2 content=mixed")


@t.test
def smp_with_1_2_and_4_vcpus():
    for n in ("1", "2", "4"):
        program("smp rounds=20", cpus=n)


@t.test
def hash_of_all_memory():
    program("hash rounds=2 fill=1", memory="16")


@t.test
def cpu_state():
    program("cpu seconds=1")


@t.test
def vio():
    disk = os.path.join(t.scratch, "disk")
    with open(disk, "wb") as f:
        f.truncate(1 << 20)
    program("vio irq=1 limit=1", "--disk", disk, "--rng", "--console", "file:" + disk + ".console",
            "--net", "none")
    with open(disk + ".console") as f:
        t.check(f.read(), "nothing came out of the virtio console")


@t.test
def exit_value_decides_the_status():
    m = t.run("hello end=exit:5")
    t.same(m.wait(), 11, "exit status")


@t.test
def a_program_that_fails_says_so_in_the_status():
    m = t.run("nonesuch")
    m.expect("^FAIL|^no program|nonesuch")
    t.same(m.wait(), FAILED, "exit status")


@t.test
def triple_fault_is_a_crash_with_a_report():
    m = t.run("hello end=triple")
    t.same(m.wait(), 3, "exit status")
    for word in ("Triple fault", "rip", "code", "Exits before it"):
        t.check(word in m.stderr(), "the report lacks %r: %s" % (word, m.stderr()))


@t.test
def triple_fault_resets_when_wanted():
    m = t.run("hello end=triple", "--on-crash", "reset")
    m.expect("^PASS hello")
    m.expect("^PASS hello")
    m.process.terminate()
    t.same(m.wait(), 0, "exit status")


@t.test
def reset_boots_again():
    m = t.run("hello end=reset")
    for _ in range(3):
        m.expect("^PASS hello")
    m.process.terminate()
    t.same(m.wait(), 0, "exit status")


@t.test
def reset_ends_when_wanted():
    m = t.run("hello end=reset", "--on-reboot", "exit")
    m.expect("^PASS hello")
    t.same(m.wait(), 0, "exit status")


@t.test
def signals_end_it_cleanly():
    for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        for name in ("tick", "hello end=halt", "smp seconds=600"):
            m = t.run(name, cpus="2")
            m.expect(r"\S")
            m.process.send_signal(sig)
            t.same(m.wait(), 0, "exit status after %s" % sig.name)
            for path in (m.control, m.serial_path):
                t.check(not os.path.exists(path), path + " was left behind")


@t.test
def paused_from_the_start():
    m = t.run("tick", "--paused")
    t.same(m.qmp.run("query-status")["status"], "prelaunch", "status")
    m.qmp.run("cont")
    m.expect("^tick ")


@t.test
def stop_and_cont_a_hundred_times():
    m = t.run("smp seconds=600", cpus="2")
    m.expect(r"\S")
    for _ in range(100):
        m.qmp.run("stop")
        t.same(m.qmp.run("query-status")["status"], "paused", "status")
        m.qmp.run("cont")
    m.send("q")
    m.expect("^PASS smp")


@t.test
def machine_from_a_dumped_tree():
    dtb = os.path.join(t.scratch, "machine.dtb")
    status, _, err = t.ferry("run", "--kernel", t.GUEST, "--cmdline", "hello", "--memory", "32",
                             "--serial", "none", "--dump-dtb", dtb)
    t.same((status, err), (0, ""), "--dump-dtb")
    m = t.Machine("run", dtb)
    m.expect("^PASS hello")
    t.same(m.wait(), PASSED, "exit status")


t.main()
