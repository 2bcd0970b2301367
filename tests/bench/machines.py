# SPDX-License-Identifier: BSD-2-Clause
"""The machines the bench compares: the same kernel, memory and workload under ferry and under QEMU.

A contender starts sources and destinations; what it starts has a console (pipes) and a QMP socket, and both
VMMs are driven by the same QMP commands. Nothing is polled while a migration runs."""

import os
import re
import select
import shutil
import subprocess
import sys
import time

TESTS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(TESTS, "system"))
import ferrytest  # noqa: E402

BARE = os.path.join(ferrytest.BUILD, "bare")
FLOOD = os.path.join(ferrytest.BUILD, "flood")
RAM = os.path.join(ferrytest.BUILD, "ram")
SNAPSHOT = os.path.join(ferrytest.BUILD, "snapshot")
QEMU = shutil.which("qemu-system-x86_64")
NO_LIMIT = 1 << 50


class Failed(Exception):
    """A run that gave no figure, and why."""


class Machine:
    """A VMM process. Its console is its stdin and stdout."""

    def __init__(self, argv, socket, patience):
        self.argv, self.socket, self.patience = argv, socket, patience
        self.text, self.client = "", None
        self.errors = open(socket + ".err", "w+b")
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors)
        self.pid = self.process.pid

    def fail(self, what):
        self.errors.seek(0)
        said = self.errors.read().decode(errors="replace").strip()[-400:]
        raise Failed(f"{os.path.basename(self.argv[0])}: {what}; console: {self.text[-200:]!r}; stderr: {said!r}")

    def expect(self, pattern):
        """Read the console until the pattern has come; what was read before it is forgotten."""
        deadline = time.monotonic() + self.patience
        while True:
            match = re.search(pattern, self.text)
            if match:
                self.text = self.text[match.end():]
                return match
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
                self.fail(f"no /{pattern}/ in {self.patience:g} s")
            data = os.read(self.process.stdout.fileno(), 65536)
            if not data:
                self.fail(f"it ended before /{pattern}/")
            self.text += data.decode("latin-1").replace("\r", "")

    def send(self, text):
        self.process.stdin.write(text.encode())
        self.process.stdin.flush()

    def _connect(self):
        """Become a QMP client; False while nobody listens yet."""
        try:
            self.client = ferrytest.Qmp(self.socket, self.patience)
            return True
        except (FileNotFoundError, ConnectionRefusedError):
            return False

    @property
    def qmp(self):
        if not self.client:
            ferrytest.wait_until(lambda: self.process.poll() is not None or self._connect(), "QMP", self.patience)
            if not self.client:
                self.fail("it ended early")
        return self.client

    def migration_end(self):
        """Wait for the end of a migration, either side: (how it ended, when by the wall clock)."""
        event = self.qmp.event("MIGRATION", match=lambda d: d["status"] in ("completed", "failed", "cancelled"))
        stamp = event["timestamp"]
        return event["data"]["status"], stamp["seconds"] + stamp["microseconds"] / 1e6

    def vcpu_threads(self):
        """The names say which threads run the guest: "vcpu0" (ferry), "CPU 0/KVM" (QEMU)."""
        tids = []
        for tid in os.listdir(f"/proc/{self.pid}/task"):
            with open(f"/proc/{self.pid}/task/{tid}/comm") as f:
                if re.match(r"vcpu\d|CPU \d+/", f.read()):
                    tids.append(int(tid))
        return tids

    def end(self):
        if self.client:
            self.client.close()
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()
        self.errors.close()
        if os.path.exists(self.socket):
            os.unlink(self.socket)


class Contender:
    """One VMM with one way to migrate."""

    count = 0

    def __init__(self, name, options, **parameters):
        self.name, self.options = name, options
        self.parameters = {"max_bandwidth": NO_LIMIT, "downtime_limit": options.downtime_limit, **parameters}

    def start(self, argv, *control, receives=False):
        """On its side of the link, when there is one."""
        Contender.count += 1
        if self.options.link:
            argv = self.options.link.wrap("receive" if receives else "run") + argv
        socket = os.path.join(ferrytest.scratch, f"c{Contender.count}.qmp")
        return Machine(argv + [word.format(socket) for word in control], socket, self.options.patience)

    def address(self):
        """Where a destination listens."""
        return f"tcp:{self.options.link.address if self.options.link else '127.0.0.1'}:0"


def capabilities(machine, *names):
    machine.qmp.run("migrate-set-capabilities", capabilities=[{"capability": n, "state": True} for n in names])


class Ferry(Contender):
    def __init__(self, name, options, channels=0, **parameters):
        more = {"multifd_channels": channels} if channels else {}
        super().__init__(name, options, **more, **parameters)
        self.channels = channels

    def command(self, cmdline, memory):
        return [ferrytest.FERRY, "run", "--kernel", ferrytest.GUEST, "--cmdline", cmdline,
                "--memory", f"{memory}M", "--serial", "stdio"]

    def source(self, cmdline, memory):
        machine = self.start(self.command(cmdline, memory), "--stay", "--control", "{}")
        if self.channels:
            capabilities(machine, "multifd")
        machine.qmp.run("migrate-set-parameters", **self.parameters)
        return machine

    def destination(self, _cmdline, _memory):
        trust = self.options.link.trust if self.options.link else []
        machine = self.start([ferrytest.FERRY, "receive", self.address(), *trust, "--serial", "stdio"],
                             "--control", "{}", receives=True)
        machine.uri = machine.expect(r"tcp:\S+:\d+").group(0)
        machine.qmp     # connects, so that the end of the migration is heard
        return machine


class Qemu(Contender):
    def __init__(self, name, options, channels=0, zero_copy=False, **parameters):
        super().__init__(name, options, **parameters)
        self.channels, self.zero_copy = channels, zero_copy

    def command(self, cmdline, memory):
        # As small and quick as the machine gets: no option ROMs, no defaults.
        return [QEMU, "-M", "microvm,accel=kvm,acpi=off,x-option-roms=off", "-cpu", "host", "-nodefaults",
                "-no-user-config", "-display", "none", "-no-reboot", "-name", "bench,debug-threads=on",
                "-global", "virtio-mmio.force-legacy=false", "-m", str(memory), "-kernel", ferrytest.GUEST,
                "-append", cmdline, "-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-serial", "stdio"]

    def prepare(self, machine, **parameters):
        capabilities(machine, "events", *(["multifd"] if self.channels else []),
                     *(["zero-copy-send"] if self.zero_copy else []))
        if self.channels:
            parameters["multifd_channels"] = self.channels
        if parameters:
            machine.qmp.run("migrate-set-parameters", **parameters)

    def source(self, cmdline, memory):
        machine = self.start(self.command(cmdline, memory), "-qmp", "unix:{},server=on,wait=off")
        self.prepare(machine, **self.parameters)
        return machine

    def destination(self, cmdline, memory):
        machine = self.start(self.command(cmdline, memory), "-incoming", "defer", "-qmp",
                             "unix:{},server=on,wait=off", receives=True)
        self.prepare(machine)
        machine.qmp.run("migrate-incoming", uri=self.address())
        address = machine.qmp.run("query-migrate")["socket-address"][0]
        machine.uri = f"tcp:{address['host']}:{address['port']}"
        return machine


GIB = 1 << 30


def random_files(mib):
    """So much random data in files of 1 GiB at most: QEMU's loader takes no larger ones than 2 GiB."""
    paths = []
    for first in range(0, mib, 1024):
        paths.append(os.path.join(ferrytest.scratch, f"data{first}"))
        with open(paths[-1], "wb") as f:
            for _ in range(min(1024, mib - first)):
                f.write(os.urandom(1 << 20))
    return paths


def loaders(paths):
    """QEMU's options to have them in its memory, around the hole from 3 to 4 GiB."""
    places = [(16 << 20), GIB + (16 << 20), *((4 + n) * GIB for n in range(len(paths)))]
    return [word for path, place in zip(paths, places)
            for word in ("-device", f"loader,file={path},addr={place:#x},force-raw=on")]


class QemuRam(Qemu):
    """QEMU with files in memory instead of a guest: paused from the start, so that no KVM is needed."""

    def command(self, data, memory):
        return [QEMU, "-M", "microvm,accel=tcg,acpi=off,x-option-roms=off", "-nodefaults", "-no-user-config",
                "-display", "none", "-S", "-m", str(memory), *loaders(data)]
