#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""The Makefile: help lists all targets, nothing is done twice, and what depends on a file is built anew."""

import glob
import os
import re
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import ferrytest as t


def make(*arguments):
    """What make would do, or says, with the flags of the build that is there."""
    environment = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
    with open(os.path.join(t.BUILD, "flags")) as f:
        flags = f.read().split()
    command = ["make", "BUILD=" + os.path.relpath(t.BUILD, t.TOP), "CC=" + flags[0],
               "SAN=" + " ".join(f for f in flags if "sanitize" in f), *arguments]
    done = subprocess.run(command, cwd=t.TOP, env=environment, text=True, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=t.PATIENCE)
    t.same(done.returncode, 0, "exit status of %s\n%s" % (" ".join(command), done.stdout[-1000:]))
    return done.stdout


def compiled(*arguments):
    """The files that make would compile."""
    return set(re.findall(r"'CC' '([^']+)'", make("-n", *arguments)))


@t.test
def help_lists_all_targets():
    text = make("help")
    files = [os.path.join(t.TOP, "Makefile")] + glob.glob(t.TOP + "/*/*.mk") + glob.glob(t.TOP + "/tests/*/*.mk")
    found = set()
    for name in files:
        with open(name) as f:
            for line in re.findall(r"^\.PHONY: (.*)$", f.read(), re.M):
                found.update(word for word in line.split() if "$" not in word)
    t.check({"all", "test", "demo", "clean"} <= found, "targets found: %s" % found)
    missing = [name for name in sorted(found - {"all"}) if not re.search(r"\b%s\b" % re.escape(name), text)]
    t.same(missing, [], "targets that make help does not name")


@t.test
def nothing_is_done_twice():
    t.same(compiled("all"), set(), "compiled again")


@t.test
def a_changed_header_is_followed():
    again = compiled("-W", "vmm/error.h", "all")
    t.check({"vmm/error.c", "vmm/memory.c", "migration/stream.c"} <= again, "compiled again: %s" % sorted(again))
    again = compiled("-W", "guest/kernel/program.h", "all")
    t.check("guest/hello.c" in again and "vmm/error.c" not in again, "compiled again: %s" % sorted(again))


@t.test
def a_changed_header_is_followed_into_unit_tests():
    if compiled("unit-programs"):
        return "the unit tests are not built"
    again = compiled("-W", "vmm/error.h", "unit-programs")
    t.check("tests/unit/test_error.c" in again, "compiled again: %s" % sorted(again))
    return None


@t.test
def another_compiler_or_other_flags_build_anew():
    for change in ("CC=another-cc", "OPT=-O0", "SAN=-fsanitize=thread"):
        again = compiled("all", change)
        t.check({"vmm/error.c", "guest/hello.c"} <= again, "%s compiles %s" % (change, sorted(again)))


@t.test
def commands_are_shown_on_request():
    touch = ("-W", "vmm/error.c", "-n")
    quiet, loud = make(*touch), make(*touch, "V=1")
    t.check("printf" in quiet and "-c -o" in quiet, "quiet: " + quiet)
    t.check("printf" not in loud and re.search(r"^\S+ .*-c -o \S+ vmm/error\.c$", loud, re.M), "V=1: " + loud)


@t.test
def missing_packages_are_named_and_nothing_else():
    environment = {**os.environ, "NO_INSTALL": "1", "PATH": t.scratch + ":" + os.environ["PATH"]}
    with open(t.scratch + "/dpkg-query", "w") as f:
        f.write("#!/bin/sh\nfor p; do :; done\ncase $p in libfdt-dev|gcc) exit 1 ;; esac\nprintf installed\n")
    os.chmod(t.scratch + "/dpkg-query", 0o755)
    done = subprocess.run([t.TOP + "/tests/deps", "build"], env=environment, text=True, capture_output=True,
                          timeout=t.PATIENCE)
    t.same((done.returncode, done.stdout), (1, ""), "exit status and stdout")
    t.check("gcc libfdt-dev\n" in done.stderr and "jansson" not in done.stderr, done.stderr)


t.main(needs_kvm=False)
