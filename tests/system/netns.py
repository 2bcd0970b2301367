# SPDX-License-Identifier: BSD-2-Clause
"""Hosts made of network namespaces, joined by links that are as fast as a test says and can go down.

The namespaces have no names: each lasts as long as this process or one that runs in it, so none is left behind
however a test ends, and with it go its interfaces."""

import contextlib
import ctypes
import os
import shutil
import socket
import subprocess

import ferrytest as t
from wire import DESTINATION, SOURCE

LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNET = 0x40000000
# What may pass at once (tc-tbf(8)): the faster the link, the more between two looks at the clock.
BURST = {"1gbit": "256kb", "1000mbit": "256kb"}     # others: 64kb


def call(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def this_namespace():
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


class Host:
    """A network namespace; with `with` the calling thread is in it."""

    def __init__(self):
        home = this_namespace()
        call(LIBC.unshare(CLONE_NEWNET))
        self.fd = this_namespace()
        call(LIBC.setns(home, CLONE_NEWNET))
        os.close(home)
        self.path = "/proc/%d/fd/%d" % (os.getpid(), self.fd)
        self.wrap = ["nsenter", "--net=" + self.path, "--"]
        self.run("ip link set lo up")

    def __enter__(self):
        self.home = this_namespace()
        call(LIBC.setns(self.fd, CLONE_NEWNET))

    def __exit__(self, *_):
        call(LIBC.setns(self.home, CLONE_NEWNET))
        os.close(self.home)

    def run(self, command):
        done = subprocess.run(self.wrap + command.split(), capture_output=True, text=True)
        t.check(done.returncode == 0, "%s: %s" % (command, done.stderr.strip()))
        return done.stdout

    def wire(self, name, other, other_name):
        """A cable from here to another host."""
        self.run("ip link add %s type veth peer name %s netns %s" % (name, other_name, other.path))
        self.run("ip link set %s up" % name)
        other.run("ip link set %s up" % other_name)


class Pair:
    """A host that guests leave and one that they go to, joined by a link of so much a second."""

    address = "10.77.0.2"
    trust = ["--trust-source"]

    def __init__(self, rate):
        self.rate = rate
        self.hosts = {SOURCE: Host(), DESTINATION: Host()}
        self.hosts[SOURCE].wire("cable", self.hosts[DESTINATION], "cable")
        for number, host in enumerate(self.hosts.values(), 1):
            host.run("ip addr add 10.77.0.%d/30 dev cable" % number)
            host.run("tc qdisc add dev cable root tbf rate %s burst %s latency 50ms" % (rate, BURST.get(rate, "64kb")))

    def wrap(self, command):
        return self.hosts[DESTINATION if command == "receive" else SOURCE].wrap

    def uri(self):
        return "tcp:%s:0" % self.address

    def socket(self, side, family):
        with self.hosts[side]:
            return socket.socket(family)

    def listen(self, side):
        """At the source's side a proxy is local and its way to the destination is the link; at the other, its way to
        the source is."""
        if side == SOURCE:
            return t.Here.listen(self, side)
        listener = self.socket(side, socket.AF_INET)
        listener.bind((self.address, 0))
        listener.listen(1)
        return listener, "tcp:%s:%d" % listener.getsockname()

    @contextlib.contextmanager
    def filtered(self):
        """A port behind which packets are dropped without a word (ip-route(8))."""
        self.hosts[DESTINATION].run("ip route add blackhole 10.77.0.1")
        try:
            yield self.uri().replace(":0", ":4444")
        finally:
            self.hosts[DESTINATION].run("ip route del blackhole 10.77.0.1")

    @contextlib.contextmanager
    def down(self, side):
        """The link is pulled out meanwhile, on the host of @side."""
        self.hosts[side].run("ip link set cable down")
        try:
            yield
        finally:
            self.hosts[side].run("ip link set cable up")
            # Who asked for the other side's address meanwhile would refuse to send for some seconds more.
            for host in self.hosts.values():
                host.run("ip neigh flush dev cable")


def neighbour(pair):
    """A third host on one LAN with guests on either: bridges on all three, and a tap t0 each for a guest."""
    client = Host()
    client.run("ip link add br0 type bridge forward_delay 0")
    client.run("ip addr add 10.0.0.1/24 dev br0")
    client.run("ip link set br0 up")
    for side, host in pair.hosts.items():
        client.wire(side, host, "lan")
        client.run("ip link set %s master br0" % side)
        host.run("ip link add br0 type bridge forward_delay 0")
        host.run("ip link set br0 up")
        host.run("ip tuntap add t0 mode tap vnet_hdr")
        for port in ("lan", "t0"):
            host.run("ip link set %s up master br0" % port)
    return client


def missing():
    """Why there can be no such hosts, or None."""
    if os.geteuid() != 0:
        return "needs root, for network namespaces"
    for tool in ("nsenter", "ip", "tc"):
        if not shutil.which(tool):
            return "%s is not installed" % tool
    try:
        Pair("100mbit")
    except (OSError, t.Failure) as e:
        return "no network namespaces joined by veth and tbf: %s" % e
    return None
