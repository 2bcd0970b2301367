# SPDX-License-Identifier: BSD-2-Clause
"""How long it takes to save a machine to a file. No guest and no KVM: ferry by build/snapshot, all of its code for saved
machines; QEMU paused from the start, told to migrate to a descriptor of a file (fd:N; version 7.2 has no file:) and to
`exec:cat`. By turns, the file removed before each run."""

import os
import socket
import subprocess
import time

from machines import SNAPSHOT, Failed, QemuRam, ferrytest, random_files
from pairs import costs
from report import smallest, spread, table

FERRY = {"ferry": ("paused", True), "ferry, 1 thread": ("paused", False), "ferry, live": ("live", True),
         "ferry, direct": ("direct", True), "ferry, live, direct": ("live-direct", True), "ferry, stream": ("stream", False)}
DATA = 2                # one part in so many is random data, the rest is zero


def save(a, path, how, threads):
    done = subprocess.run([SNAPSHOT, "save", path, str(a.snapshot), str(a.snapshot // DATA), str(threads), how],
                          stdout=subprocess.PIPE, text=True, check=True)
    figures = costs(done.stdout)
    return {"written": figures["blackout_ns"] / 1e9, "on_disk": figures["total_ns"] / 1e9}


def save_qemu(a, path, data, by_cat):
    machine = QemuRam("QEMU", a).source(data, a.snapshot)
    try:
        with open(path, "wb") as f:
            # A descriptor comes beside the command that names it.
            socket.send_fds(machine.qmp.sock, [b" "], [f.fileno()])
            machine.qmp.run("getfd", fdname="file")
            began = time.monotonic()
            machine.qmp.run("migrate", uri="exec:cat >" + path if by_cat else "fd:file")
            how, _ = machine.migration_end()
            if how != "completed":
                machine.fail(how)
            written = time.monotonic() - began
            os.fsync(f.fileno())
            return {"written": written, "on_disk": time.monotonic() - began}
    finally:
        machine.end()


def measure(a, touch, say):
    path = os.path.join(ferrytest.scratch, "saved")
    data = random_files(a.snapshot // DATA)
    ways = {name: lambda how=how, many=many: save(a, path, how, os.cpu_count() if many else 1)
            for name, (how, many) in FERRY.items()}
    ways["QEMU, fd:"] = lambda: save_qemu(a, path, data, False)
    ways["QEMU, exec:cat"] = lambda: save_qemu(a, path, data, True)
    order = [name for name in ways if a.wanted(name)]
    found = {name: [] for name in order}
    for number in range(-a.warm_up, a.runs):
        for name in order:
            touch(a.snapshot)
            try:
                found[name].append(ways[name]())
            except (Failed, ferrytest.Failure, OSError, subprocess.CalledProcessError) as e:
                found[name].append({"failed": str(e)})
            say(f"snapshot {number + 1}/{a.runs} {name}: {found[name][-1]}")
            if os.path.exists(path):
                os.unlink(path)
        order.append(order.pop(0))
    for name in data:
        os.unlink(name)
    return {"memory": a.snapshot, "data": a.snapshot // DATA,
            "runs": {name: runs[a.warm_up:] for name, runs in found.items()}}


def runs(found):
    """Whose, and all of them."""
    return [(f"snapshot, {name}", x) for name, x in found["runs"].items()]


def sections(found):
    rows = [[name, *(spread(x, lambda r, k=key: r[k], "{:.2f}") for key in ("written", "on_disk"))]
            for name, x in found["runs"].items()]
    title = f"Saving {found['memory']} MiB, {found['data']} MiB of them random"
    return [(title, table(["", "written s", "on disk s"], rows))]


def targets(found, t):
    """Of a guest that runs on, `written` is only what it stands still for."""
    for key, what in ("written", "snapshot s, written"), ("on_disk", "snapshot s, on disk"):
        counted = {name: x for name, x in found["runs"].items() if key == "on_disk" or "live" not in name}
        best = smallest(counted, "QEMU", lambda r, k=key: r[k])
        t.add(f"{what}: a third of the better QEMU's", smallest(counted, "ferry", lambda r, k=key: r[k]),
              best / 3 if best is not None else None)
