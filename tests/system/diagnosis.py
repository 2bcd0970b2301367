# SPDX-License-Identifier: BSD-2-Clause
"""What a ferry is at that does not do what a test waits for: its threads, and its guest's vCPUs."""

import os
import re
import subprocess
import tempfile

FERRY = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", os.environ.get("BUILD", "build"), "ferry")
LIMIT = 30              # seconds


def thread(folder):
    def read(name):
        with open(os.path.join(folder, name)) as f:
            return f.read().strip()
    name, fields = re.search(r"\((.*)\) (.*)", read("stat")).groups()
    state, user, system = (fields.split()[i] for i in (0, 11, 12))
    return "thread %s: %s, %s + %s ticks, syscall %s, in %s" % (name, state, user, system, read("syscall"),
                                                                read("wchan"))


def threads(pid):
    """A line each: state, CPU time, system call and where in the kernel it waits, if it does."""
    tasks = "/proc/%d/task" % pid
    try:
        return [thread(os.path.join(tasks, task)) for task in sorted(os.listdir(tasks), key=int)]
    except OSError as e:
        return ["threads: %s" % e]


def vcpus(control):
    """Their main registers, as `ferry save` finds them. The file stays where FERRY_TEST_KEEP names a folder: a guest that
    went astray goes on from there as often as one likes (`ferry restore`, `ferry inspect`)."""
    if not os.path.exists(control):
        return []
    try:
        with tempfile.TemporaryDirectory(prefix="ferry-test-") as scratch:
            folder = os.environ.get("FERRY_TEST_KEEP", scratch)
            path = os.path.join(folder, "%s-%d.ferry" % (os.path.basename(control), os.getpid()))
            for command in ["save", control, path], ["inspect", path]:
                said = subprocess.run([FERRY, *command], capture_output=True, text=True, check=True,
                                      timeout=LIMIT).stdout
    except (OSError, subprocess.SubprocessError) as e:
        return ["it cannot be saved: %s %s" % (e, getattr(e, "stderr", None) or "")]
    wanted = r"\t(cpu@|\t(regs\.r[is]p|regs\.rflags|sregs\.cr[23]|mp_state) )"
    return [line.strip() for line in said.splitlines() if re.match(wanted, line)]
