# SPDX-License-Identifier: BSD-2-Clause
"""The two hosts of a pair as a test on the first one sees them: commands, a bridge, ferries, and death."""

import importlib.machinery
import importlib.util
import os
import socket
import subprocess
import sys

LAB = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(LAB), "system"))
import ferrytest as t

ON = os.path.join(LAB, "on")
ALIVE = "/run/ferry-pair"               # what a host has in /run dies with it
DISCARD = 9                             # a port that nobody listens at
# The address moves from the link to a bridge of link and tap. The bridge keeps the link's MAC and MTU: a tap that joins
# would change both, and what is under way to this host would get lost.
NETWORK = """set -e
ip link add br0 type bridge forward_delay 0
ip link set br0 address $(cat /sys/class/net/eth0/address) mtu $(cat /sys/class/net/eth0/mtu)
ip tuntap add t0 mode tap vnet_hdr
ip link set t0 master br0 up
ip link set br0 up
ip link set eth0 master br0
ip addr del $0/24 dev eth0
ip addr add $0/24 dev br0
mkdir -p $1
touch $2
"""


def load(path):
    """A script without .py as a module."""
    loader = importlib.machinery.SourceFileLoader(os.path.basename(path), path)
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    return module


sys.dont_write_bytecode = True
on = load(ON)


class Host:
    def __init__(self, address, here):
        self.address, self.here = address, here

    def __str__(self):
        return "the first host" if self.here else "the second host"

    def argv(self, *words):
        return list(words) if self.here else [ON, self.address, *words]

    def run(self, *words, timeout=None):
        """A command there: status and output, which are None when the host did not answer in time."""
        try:
            done = subprocess.run(self.argv(*words), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, text=True, timeout=timeout or t.PATIENCE)
        except subprocess.TimeoutExpired:
            return None, None
        return done.returncode, done.stdout

    def prepare(self):
        status, output = self.run("sh", "-c", NETWORK, self.address, t.scratch, ALIVE)
        t.same((status, output), (0, ""), "bridge and tap of %s" % self)

    def connect(self, path):
        """To a unix socket of this host."""
        if not self.here:
            return on.connect(self.address, path)
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.connect(path)
        except OSError:
            sock.close()
            raise
        return sock

    def answers(self, seconds):
        """Its kernel does, within that time: nobody listens at the port."""
        try:
            socket.create_connection((self.address, DISCARD), seconds).close()
        except ConnectionRefusedError:
            return True
        except OSError:
            pass
        return False

    def die(self):
        """As by a cut of its power; returns when it is dead. The pair boots it again. (Started from here: another
        python would take seconds, in which the protocol goes on.)"""
        with on.start(self.address, ["sh", "-c", "echo b >/proc/sysrq-trigger"]):
            # To boot again takes it longer than this.
            t.wait_until(lambda: not self.answers(1), "%s to die" % self)

    def revive(self):
        """Wait until it is back, with nothing of what it had."""
        t.wait_until(lambda: self.run("test", "-e", ALIVE, timeout=10)[0] == 1, "%s to boot again" % self)
        self.prepare()


class Ferry(t.Machine):
    """A ferry on one of the hosts."""

    def __init__(self, host, command, *arguments):
        self.host = host
        super().__init__(command, *arguments, wrap=host.argv())
        if command == "receive":
            t.wait_until(lambda: self.ended() or "\n" in self.stdout(), "ferry receive to say its address")
            t.check(not self.ended(), "ferry receive ended early: " + self.stdout() + self.stderr())
            self.uri = self.stdout().splitlines()[0]

    def attempt(self, path):
        """A connection to a socket that this ferry makes once it is there."""
        def attempt():
            try:
                return self.host.connect(path)
            except (FileNotFoundError, ConnectionRefusedError):
                return "ended" if self.ended() else None
        found = t.wait_until(attempt, path)
        t.check(found != "ended", "ferry ended before %s could be reached" % path)
        return found

    @property
    def qmp(self):
        if not self._qmp:
            self._qmp = t.Qmp(self.control, connect=self.attempt)
        return self._qmp

    def _connect(self):
        if not self.sock:
            self.sock = self.attempt(self.serial_path)

    def kill(self):
        if self.sock:
            # A thread may read it; close() alone would not wake it, nor does a host that is dead.
            try:
                self.sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        super().kill()

    def stderr(self):
        """`on` passes both streams as one; the first line of a receive is its address."""
        if self.host.here:
            return super().stderr()
        return "".join(line for line in self.stdout().splitlines(True) if not line.startswith("tcp:")) + super().stderr()
