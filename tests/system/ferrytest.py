# SPDX-License-Identifier: BSD-2-Clause
"""What the system tests share: TAP, machines under test, QMP, waiting for events with a deadline.

Nothing here sleeps for a fixed time: every wait is for an output, an event, a process or a deadline."""

import atexit
import contextlib
import fcntl
import importlib.machinery
import importlib.util
import json
import os
import re
import selectors
import shutil
import socket
import subprocess
import sys
import tempfile
import time

import diagnosis

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.join(TOP, os.environ.get("BUILD", "build"))
FERRY = os.path.join(BUILD, "ferry")
GUEST = os.path.join(BUILD, "guest", "ferry-guest.elf")
# Emulated processors are slow; a deadline that is generous on one still ends a hang.
PATIENCE = float(os.environ.get("FERRY_TEST_PATIENCE", "60"))
# How much slower than a real processor this one is taken to be, for checks of durations.
SLOWNESS = float(os.environ.get("FERRY_TEST_SLOWNESS", "1"))

scratch = tempfile.mkdtemp(prefix="ferry-test-")
machines = []


def cleanup():
    for machine in machines:
        machine.kill()
    shutil.rmtree(scratch, ignore_errors=True)


atexit.register(cleanup)


class Failure(Exception):
    """What a test found to be wrong."""


# --- TAP ---------------------------------------------------------------------------------------

tests = []


def test(function):
    """Mark a function as a test; its name, underscores as blanks, is what TAP says."""
    tests.append(function)
    return function


def script(name):
    """Another script of this folder as a module; what it tests is left to who asks."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), name + ".t")
    loader = importlib.machinery.SourceFileLoader(name, path)
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(name, loader))
    known = len(tests)
    loader.exec_module(module)
    del tests[known:]
    return module


def kvm_missing():
    """Why there is no usable KVM here, or None."""
    try:
        fd = os.open("/dev/kvm", os.O_RDWR)
    except OSError as e:
        return "/dev/kvm: " + e.strerror
    try:
        fcntl.ioctl(fd, 0xAE00)
    except OSError as e:
        return "/dev/kvm: " + e.strerror
    finally:
        os.close(fd)
    return None


def main(needs_kvm=True):
    """Run the tests whose names contain one of the arguments (all without) and exit."""
    chosen = [t for t in tests if not sys.argv[1:] or any(a in t.__name__ for a in sys.argv[1:])]
    reason = kvm_missing() if needs_kvm else None
    if reason:
        print("1..0 # SKIP no KVM: " + reason)
        sys.exit(0)
    print("1..%d" % len(chosen), flush=True)
    failed = 0
    for number, t in enumerate(chosen, 1):
        name = t.__name__.replace("_", " ")
        started = time.monotonic()
        try:
            skip = t()
            line = "ok %d - %s" % (number, name)
            if isinstance(skip, str):
                line += " # SKIP " + skip
        except (Failure, OSError, subprocess.SubprocessError) as e:
            failed += 1
            line = "not ok %d - %s" % (number, name)
            for text in str(e).splitlines() or [type(e).__name__]:
                line += "\n# " + text
            for machine in machines:
                line += machine.diagnosis()
        print(line, flush=True)
        print("# %s: %.1f s" % (name, time.monotonic() - started), flush=True)
        while machines:
            machines.pop().kill()
    sys.exit(1 if failed else 0)


def check(condition, message):
    if not condition:
        raise Failure(message)


def same(got, expected, what):
    check(got == expected, "%s: expected %r, found %r" % (what, expected, got))


def wait_until(condition, what, timeout=None):
    """Poll what has no event to wait for (a file that appears, a process that is gone)."""
    deadline = time.monotonic() + (timeout or PATIENCE)
    while True:
        value = condition()
        if value:
            return value
        check(time.monotonic() < deadline, "timed out waiting for " + what)
        select_nothing(0.005)


def select_nothing(seconds):
    with selectors.DefaultSelector() as s:
        s.select(seconds)


# --- QMP ---------------------------------------------------------------------------------------

class QmpError(Failure):
    def __init__(self, error):
        super().__init__(error.get("desc", str(error)))
        self.error = error


class Qmp:
    """A plain QMP client, written from the public description, so that it also tests the server."""

    def __init__(self, path, timeout=None, connect=None):
        """@connect(path) makes the connection where a plain one does not lead there."""
        self.sock = connect(path) if connect else socket.socket(socket.AF_UNIX)
        self.sock.settimeout(timeout or PATIENCE)
        if not connect:
            self.sock.connect(path)
        self.lines = self.sock.makefile("r")
        self.events = []                # not asked for yet
        self.log = []                   # all that came
        self.greeting = self.read()
        self.run("qmp_capabilities")

    def read(self):
        line = self.lines.readline()
        check(line, "the control socket was closed")
        message = json.loads(line)
        if "event" in message:
            self.log.append(message)
        return message

    def run(self, command, **arguments):
        arguments = {k.replace("_", "-"): v for k, v in arguments.items()}
        request = {"execute": command, "arguments": arguments}
        self.sock.sendall(json.dumps(request).encode() + b"\n")
        while True:
            message = self.read()
            if "event" in message:
                self.events.append(message)
            elif "error" in message:
                raise QmpError(message["error"])
            else:
                return message["return"]

    def event(self, *names, match=lambda data: True):
        """The next event of one of these names, and of the data wanted; others are passed over."""
        while True:
            message = self.events.pop(0) if self.events else self.read()
            if message.get("event") in names and match(message.get("data", {})):
                return message

    def rest(self):
        """All events of a process that has ended."""
        try:
            while self.lines.readable() and self.read():
                pass
        except (Failure, OSError):
            pass
        return self.log

    def close(self):
        self.lines.close()
        self.sock.close()


# --- places ------------------------------------------------------------------------------------

class Here:
    """Where machines run, and how one gets from source to destination: all on this host. netns.py has other places."""

    address = "127.0.0.1"               # of the destination
    trust = []                          # options of receive by which it opens what a source names

    def wrap(self, command):
        """What runs `ferry @command` where it belongs."""
        return []

    def uri(self):
        """Where a destination can listen."""
        return "unix:" + os.path.join(scratch, "mig%d" % Machine.count)

    def socket(self, side, family):
        """A socket on the host of "source" or "destination"."""
        return socket.socket(family)

    def listen(self, side):
        """A socket on the host of @side to which a source can connect, and its URI."""
        listener = self.socket(side, socket.AF_UNIX)
        path = os.path.join(scratch, "proxy%d" % listener.fileno())
        listener.bind(path)
        listener.listen(1)
        return listener, "unix:" + path

    @contextlib.contextmanager
    def filtered(self):
        """The URI of a port to which SYNs are dropped: nobody accepts, and what may wait is there already."""
        with contextlib.ExitStack() as stack:
            listener = stack.enter_context(socket.socket())
            listener.bind((self.address, 0))
            listener.listen(0)
            for _ in range(3):
                s = stack.enter_context(socket.socket())
                s.setblocking(False)
                s.connect_ex(listener.getsockname())
            yield "tcp:%s:%d" % listener.getsockname()


place = Here()


# --- machines ----------------------------------------------------------------------------------

class Machine:
    """A ferry process. Its serial port and control socket are unix sockets in the scratch folder."""

    count = 0

    def __init__(self, command, *arguments, serial=True, control=True, env=None, wrap=(),
                 fds=()):
        Machine.count += 1
        self.base = os.path.join(scratch, "m%d" % Machine.count)
        self.control = self.base + ".qmp"
        self.serial_path = self.base + ".serial"
        self.output = ""
        self.sock = self._qmp = None
        argv = place.wrap(command) + list(wrap) + [FERRY, command] + list(arguments)
        if serial:
            argv += ["--serial", "unix:" + self.serial_path]
        if control:
            argv += ["--control", self.control]
        self.argv = argv
        self.err = open(self.base + ".err", "w+")
        self.out = open(self.base + ".out", "w+")
        self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=self.out,
                                        stderr=self.err, env=env,
                                        pass_fds=fds_of(arguments) + list(fds))
        machines.append(self)

    @property
    def qmp(self):
        if not self._qmp:
            wait_until(lambda: self.ended() or os.path.exists(self.control), "the control socket")
            check(not self.ended(), "ferry ended early")
            self._qmp = Qmp(self.control)
        return self._qmp

    def ended(self):
        return self.process.poll() is not None

    def _connect(self):
        def attempt():
            s = socket.socket(socket.AF_UNIX)
            try:
                s.connect(self.serial_path)
                return s
            except OSError:
                s.close()
                return None
        if not self.sock:
            found = wait_until(lambda: attempt() or (self.ended() and "ended"), "the serial port")
            check(found != "ended", "ferry ended before its serial port could be reached")
            self.sock = found

    def expect(self, pattern, timeout=None):
        """Read the guest's output until @pattern matches; what was read up to there is consumed. A number is read to
        its end, which has come when something else follows it."""
        self._connect()
        deadline = time.monotonic() + (timeout or PATIENCE)
        while True:
            found = re.search(pattern, self.output, re.MULTILINE)
            if found and (found.end() < len(self.output) or not self.output[-1:].isdigit()):
                self.output = self.output[found.end():]
                return found
            left = deadline - time.monotonic()
            check(left > 0, "the guest did not print %r; its last output: %r" %
                  (pattern, self.output[-300:]))
            self.sock.settimeout(left)
            try:
                data = self.sock.recv(65536)
            except (TimeoutError, socket.timeout):
                continue
            check(data, "the serial port closed before %r; last output: %r" %
                  (pattern, self.output[-300:]))
            self.output += data.decode("latin-1")

    def rest(self):
        """All that the guest prints until its serial port closes."""
        self._connect()
        self.sock.settimeout(PATIENCE)
        while True:
            data = self.sock.recv(65536)
            if not data:
                return self.output
            self.output += data.decode("latin-1")

    def send(self, text):
        self._connect()
        self.sock.sendall(text.encode())

    def wait(self, timeout=None):
        """Wait for the process to end; its exit status."""
        try:
            return self.process.wait(timeout or PATIENCE)
        except subprocess.TimeoutExpired:
            raise Failure("ferry did not end: " + " ".join(self.argv))

    def stderr(self):
        self.err.flush()
        with open(self.base + ".err") as f:
            return f.read()

    def stdout(self):
        with open(self.base + ".out") as f:
            return f.read()

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if self._qmp:
            self._qmp.close()
            self._qmp = None
        if self.sock:
            self.sock.close()
            self.sock = None

    def diagnosis(self):
        text = "\n# %s: status %s" % (" ".join(self.argv), self.process.poll())
        for line in self.stderr().splitlines()[-60:]:
            text += "\n#   stderr: " + line
        if not self.ended():
            for line in diagnosis.threads(self.process.pid) + diagnosis.vcpus(self.control):
                text += "\n#   " + line
        return text + "\n#   serial: %r" % self.output[-300:]


def fds_of(arguments):
    """Descriptors named by fd:N arguments stay open in the child."""
    return [int(a[3:]) for a in arguments if re.fullmatch(r"fd:\d+", a)]


def run(program, *options, memory="64", cpus="1", **kw):
    """ferry run of a program of the test kernel."""
    return Machine("run", "--kernel", GUEST, "--cmdline", program, "--memory", memory,
                   "--cpus", cpus, *options, **kw)


def receive(uri=None, *options, **kw):
    """An empty ferry receive; .uri says where."""
    if uri is None:
        uri = place.uri()
    machine = Machine("receive", uri, *place.trust, *options, **kw)
    wait_until(lambda: machine.ended() or "\n" in machine.stdout(), "ferry receive to say its address")
    check(not machine.ended(), "ferry receive ended early: " + machine.stderr())
    machine.uri = machine.stdout().strip()
    return machine


def ferry(*arguments, timeout=None, **kw):
    """Run a command of ferry to its end: (status, stdout, stderr)."""
    done = subprocess.run([FERRY, *arguments], stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, timeout=timeout or PATIENCE, **kw)
    return done.returncode, done.stdout, done.stderr


def migrate(source, destination, **parameters):
    """Migrate by QMP and wait for the end; returns query-migrate of the source."""
    if parameters:
        source.qmp.run("migrate-set-parameters", **parameters)
    source.qmp.run("migrate", uri=destination.uri)
    return migration_end(source)


def migration_end(source):
    """Wait until the source's migration has ended, whichever way."""
    source.qmp.event("MIGRATION", match=lambda d: d["status"] in ("completed", "failed", "cancelled"))
    return source.qmp.run("query-migrate")
