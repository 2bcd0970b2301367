#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Saved machines in which every page has its place: of a paused guest and of one that runs on, read again and mapped,
with one thread and several; what was saved is one moment of the guest, which checks its memory itself."""

import fcntl
import os
import signal
import subprocess
import sys
import threading

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import ferrytest as t
from checks import arrived, dirty, huge_pages, verify

BUSY = "fill=16 ws=4 rate=100 content=mixed"


def path(name="saved"):
    return os.path.join(t.scratch, name)


def save(machine, *options, to=None):
    status, out, err = t.ferry("save", machine.control, to or path(), *options)
    t.same((status, err), (0, ""), "ferry save " + " ".join(options))
    return out


def finish(machine, said=""):
    machine.send("q")
    machine.expect("^PASS dirty")
    machine.wait()
    t.check(machine.stderr().count("\n") == bool(said) and said in machine.stderr(), "stderr: " + machine.stderr())


def nothing_saved(name):
    t.same([found for found in os.listdir(t.scratch) if found.startswith(name)], [], "files left behind")


def restored(*options):
    machine = arrived(t.Machine("restore", path(), *options))
    verify(machine)
    finish(machine)


@t.test
def saved_with_threads_and_restored_with_others():
    m = dirty(BUSY, memory="64")
    save(m, "--threads", "1")
    verify(m)
    restored("--threads", "3")
    report = save(m, "--threads", "5", "--report")
    t.check("blackout" in report, "the report names the blackout: " + report)
    status, out, err = t.ferry("inspect", path())
    t.same((status, err), (0, ""), "ferry inspect")
    for word in ("RAM_MAP", "sum right", "complete"):
        t.check(word in out, "ferry inspect does not show %r" % word)
    restored()
    # What the save wanted does not outlive it.
    on = [c["capability"] for c in m.qmp.run("query-migrate-capabilities") if c["state"]]
    t.same(on, ["mapped-ram"], "capabilities after a save")
    finish(m)


@t.test
def saved_as_a_stream():
    m = dirty()
    save(m, "--stream")
    t.check("RAM_MAP" not in t.ferry("inspect", path())[1], "a stream has no RAM_MAP")
    status, _, err = t.ferry("restore", path(), "--lazy", "--serial", "none")
    t.same(status, 1, "status of restore --lazy of a stream")
    t.check("lazy" in err, err)
    restored()
    finish(m)


@t.test
def saved_into_a_pipe():
    m, pipe = dirty(), path("pipe")
    os.mkfifo(pipe)
    got = []
    fd = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    fcntl.fcntl(fd, fcntl.F_SETFL, 0)
    with os.fdopen(fd, "rb") as f:
        # It ends when the writer has closed, and blocks until there is one: the save holds it open from its start.
        saver = subprocess.Popen([t.FERRY, "save", m.control, pipe])
        thread = threading.Thread(target=lambda: [got.append(part) for part in iter(lambda: os.read(fd, 1 << 20), b"")
                                                  ])
        t.wait_until(lambda: m.qmp.run("query-migrate").get("status") in ("active", "device", "completed"),
                     "the save to begin")
        thread.start()
        t.same(saver.wait(t.PATIENCE), 0, "status of ferry save")
        thread.join()
    os.unlink(pipe)
    with open(path(), "wb") as f:
        f.write(b"".join(got))
    restored()
    finish(m)


@t.test
def saved_while_it_runs():
    for cpus in ("1", "2"):
        m = dirty(BUSY, memory="64", cpus=cpus)
        for options in ((), ("--threads", "3")):
            report = save(m, "--live", "--report", *options)
            t.check("blackout" in report, "the report names the blackout: " + report)
            t.check(m.qmp.run("query-status")["running"], "it runs")
            verify(m)
            restored()
        restored("--lazy")
        finish(m)


@t.test
def shared_memory_saved_while_it_runs():
    m = dirty(BUSY, "--memory-backing", "shared", memory="64")
    save(m, "--live")
    verify(m)
    restored()
    status, _, err = t.ferry("restore", path(), "--lazy", "--serial", "none")
    t.same(status, 1, "status of restore --lazy into shared memory")
    t.check("lazy" in err and "shared memory" in err, err)
    finish(m)


@t.test
def huge_pages_saved_while_it_runs():
    with huge_pages(64) as reason:
        if reason:
            return reason
        m = dirty(BUSY, "--memory-backing", "hugetlb", memory="64")
        save(m, "--live")
        verify(m)
        m.kill()
        restored()
        status, _, err = t.ferry("restore", path(), "--lazy", "--serial", "none")
        t.same(status, 1, "status of restore --lazy into huge pages")
        t.check("lazy" in err and "hugetlb" in err, err)


@t.test
def cancelled_while_it_runs():
    m = dirty(BUSY, memory="64")
    m.qmp.run("migrate-set-parameters", max_bandwidth=1 << 20)
    saver = subprocess.Popen([t.FERRY, "save", "--live", m.control, path("cancelled")], stderr=subprocess.PIPE)
    # Its RAM is protected when it goes on.
    m.qmp.event("RESUME")
    saver.send_signal(signal.SIGINT)
    t.check(saver.wait(t.PATIENCE) != 0, "a save that was cancelled has failed")
    saver.stderr.close()
    t.same(m.qmp.run("query-migrate")["status"], "cancelled", "status")
    nothing_saved("cancelled")
    verify(m)
    m.qmp.run("migrate-set-parameters", max_bandwidth=0)
    save(m, "--live")
    restored()
    finish(m, "cancelled")


@t.test
def no_room_while_it_runs():
    m, small = dirty(BUSY, memory="64"), path("small")
    os.mkdir(small)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6M", "small", small], stderr=subprocess.DEVNULL).returncode:
        return "mount(8) may not be used"
    try:
        status, _, err = t.ferry("save", "--live", m.control, os.path.join(small, "saved"))
        t.same(status, 1, "status of a save to a full disk")
        t.check("No space" in err, err)
        t.same(os.listdir(small), [], "files left behind")
        verify(m)
        finish(m, "No space")
    finally:
        subprocess.run(["umount", small], check=True)


@t.test
def mapped_it_can_move_and_be_saved():
    m = dirty(BUSY, memory="64")
    save(m)
    finish(m)
    m = arrived(t.Machine("restore", path(), "--lazy"))
    verify(m)
    # In place of the very file that it comes from.
    save(m)
    verify(m)
    destination = t.receive(None)
    m.qmp.run("migrate-set-parameters", x_verify=True)
    m.qmp.run("migrate", uri=destination.uri)
    t.same(m.wait(), 0, "exit status of the source")
    verify(destination)
    status, _, err = t.ferry("save", "--live", destination.control, path())
    t.same((status, err), (0, ""), "ferry save --live where it came to")
    finish(destination)
    m = arrived(t.Machine("restore", path(), "--lazy"))
    status, _, err = t.ferry("save", "--live", m.control, path("other"))
    t.same(status, 1, "status of save --live of RAM that is mapped")
    t.check("--lazy" in err, err)
    verify(m)
    finish(m, "--lazy")
    restored()
    nothing_saved("other")


@t.test
def past_the_page_cache():
    m = dirty(BUSY, memory="64")
    status, _, err = t.ferry("save", "--direct", m.control, path("direct"))
    if status:
        # A file system without it, named; nothing is done in another way instead.
        t.check("direct-io" in err and "O_DIRECT" in err, err)
        nothing_saved("direct")
    else:
        save(m, "--direct")
        restored("--direct")
        save(m, "--direct", "--live")
        restored()
    verify(m)
    finish(m, status and "direct-io" or "")


t.main()
