#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""The one-file rule: one more file in devices/ is an option, a node, a device that works, and state that moves;
one more file in guest/ is a program. All in a copy of the tree, built from what is built already."""

import os
import re
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import ferrytest as t

PARTS = os.path.join(t.TOP, "tests", "system", "one-file")
COPY = os.path.join(t.scratch, "copy")
ADDED = {"device.c": "devices/scratch.c", "program.c": "guest/scratch.c", "unit.c": "tests/unit/test_scratch.c"}
compiled = ""


def copy_tree():
    """Sources, and objects with their times, so that make finds only the new files to do."""
    for part in ("Makefile", "vmm", "devices", "migration", "guest", "tests/tests.mk", "tests/fuzz", "tests/unit"):
        source, target = os.path.join(t.TOP, part), os.path.join(COPY, part)
        if os.path.isdir(source):
            shutil.copytree(source, target)
        elif os.path.exists(source):
            os.makedirs(os.path.dirname(target), exist_ok=True)
            shutil.copy2(source, target)
    for part in ("flags", "vmm", "devices", "migration", "guest"):
        source, target = os.path.join(t.BUILD, part), os.path.join(COPY, "build", part)
        if os.path.isdir(source):
            shutil.copytree(source, target)
        elif os.path.exists(source):
            os.makedirs(os.path.dirname(target), exist_ok=True)
            shutil.copy2(source, target)


def make(*targets):
    with open(os.path.join(t.BUILD, "flags")) as f:
        flags = f.read().split()
    # Not the jobs and variables of the make that runs this test.
    environment = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
    sanitizers = " ".join(f for f in flags if "sanitize" in f)
    command = ["make", "BUILD=build", "CC=" + flags[0], "SAN=" + sanitizers, *targets]
    done = subprocess.run(command, cwd=COPY, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          env=environment, timeout=10 * t.PATIENCE)
    t.check(done.returncode == 0, " ".join(command) + "\n" + done.stdout[-3000:])
    return done.stdout


@t.test
def one_more_file_is_built_in():
    copy_tree()
    make("all")
    for part, place in ADDED.items():
        shutil.copy2(os.path.join(PARTS, part), os.path.join(COPY, place))
    global compiled
    compiled = make("all", "unit-programs", "UNIT=scratch")
    t.FERRY = os.path.join(COPY, "build", "ferry")
    t.GUEST = os.path.join(COPY, "build", "guest", "ferry-guest.elf")


@t.test
def only_the_new_files_are_compiled():
    found = sorted(re.findall(r"^  CC +(\S+)", compiled, re.M))
    t.same(found, sorted(ADDED.values()), "compiled files")


@t.test
def the_options_are_listed():
    for command in ("run", "receive"):
        status, out, err = t.ferry(command, "--help")
        t.same(status, 0, "exit status")
        t.check(re.search(r"^ +--scratch VALUE +eight bytes", out, re.M), "--scratch is not in:\n" + out)


def dump(*options):
    status, _, err = t.ferry("run", *options, "--dump-dtb", COPY + "/m.dtb")
    t.same((status, err), (0, ""), "exit status and stderr")
    with open(COPY + "/m.dtb", "rb") as f:
        return f.read()


def address():
    found = re.search(rb"scratch@([0-9a-f]+)\0", dump("--scratch", "5"))
    t.check(found, "no node scratch@… in the machine tree")
    return int(found.group(1), 16)


@t.test
def its_node_is_in_the_machine_tree():
    t.check(address() > 0, "it has an address")
    t.check(b"test,scratch\0" in dump("--scratch", "5"), "it has its compatible")
    t.check(b"test,scratch" not in dump(), "without the option it is absent")


@t.test
def a_bad_value_is_refused_by_name():
    status, _, err = t.ferry("run", "--scratch", "many", "--dump-dtb", "-")
    t.same(status, 1, "exit status")
    t.check("many" in err, "the value is named: " + err)


@t.test
def it_works_and_its_state_is_saved_and_loaded():
    done = subprocess.run([COPY + "/build/tests/unit/test_scratch"], text=True, stdout=subprocess.PIPE,
                          env={**os.environ, "CMOCKA_MESSAGE_OUTPUT": "TAP"})
    t.check(done.returncode == 0 and done.stdout.count("\nok ") == 3, done.stdout)


@t.test
def a_guest_uses_it_and_finds_it_again_after_a_migration():
    if t.kvm_missing():
        return "no KVM: " + t.kvm_missing()
    source = t.run("scratch at=%#x initial=5" % address(), "--scratch", "5")
    source.expect(r"^scratch ready")
    destination = t.receive()
    status, _, err = t.ferry("migrate", source.control, destination.uri)
    t.same((status, err), (0, ""), "ferry migrate")
    destination.send("v")
    destination.expect(r"^PASS scratch")
    t.same(destination.wait(), 0x2A << 1 | 1, "exit status")
    return None


t.main(needs_kvm=False)
