# SPDX-License-Identifier: BSD-2-Clause
"""The network around a guest under test: a bridge, taps, and hosts that ask it."""

import fcntl
import os
import select
import socket
import struct
import subprocess
import threading
import time

import ferrytest as t

PASSED = 0x2A << 1 | 1
HOST = "10.0.0.1"
MAC = "02:00:00:00:00:07"
TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 2, 0x1000, 0x4000
INTERVAL = 0.01                         # of a stream, seconds


def ip(*arguments):
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


def exists(interface):
    return any(name == interface for _, name in socket.if_nameindex())


def make_bridge():
    ip("link", "set", "lo", "up")
    ip("link", "add", "br0", "type", "bridge", "forward_delay", "0")
    ip("addr", "add", HOST + "/24", "dev", "br0")
    ip("link", "set", "br0", "up")


def bridge_port(mac):
    """Behind which port the bridge has seen an address."""
    out = subprocess.run(["bridge", "fdb", "show", "br", "br0"], check=True, capture_output=True,
                         text=True).stdout
    for line in out.splitlines():
        words = line.split()
        if words[0] == mac and "permanent" not in words:
            return words[words.index("dev") + 1]
    return None


def tap_fd(name):
    fd = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(),
                                           IFF_TAP | IFF_NO_PI | IFF_VNET_HDR))
    return fd


def checksum(data):
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ask(sock, address, request, answer):
    """Send until the answer comes."""
    deadline = time.monotonic() + t.PATIENCE
    while time.monotonic() < deadline:
        sock.sendto(request, address)
        while select.select([sock], [], [], 1)[0]:
            if sock.recv(65536).endswith(answer):
                return
    raise t.Failure("no answer from %s to %d bytes" % (address[0], len(request)))


def ping(address):
    data = bytes(range(56))
    echo = struct.pack("!BBHHH", 8, 0, 0, os.getpid() & 0xFFFF, 1)
    echo = struct.pack("!BBHHH", 8, 0, checksum(echo + data), os.getpid() & 0xFFFF, 1)
    reply = struct.pack("!BBHHH", 0, 0, 0, os.getpid() & 0xFFFF, 1)
    reply = struct.pack("!BBHHH", 0, 0, checksum(reply + data), os.getpid() & 0xFFFF, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as s:
        ask(s, (address, 0), echo + data, reply + data)


def udp_echo(address, size):
    """The kernel checks the answer's checksum. The number that the guest looks at grows."""
    payload = struct.pack("!I", time.monotonic_ns() // 1000000 & 0xFFFFFFFF) + os.urandom(size - 4)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        ask(s, (address, 7), payload, payload)


class Stream(threading.Thread):
    """Numbered datagrams to the echo port of a guest, and what comes back."""

    def __init__(self, address, interval=INTERVAL):
        super().__init__(daemon=True)
        self.interval = interval
        self.came = []                  # when answers came
        self.sock = self.connect(address)
        self.sent = []                  # when, by number
        self.answered = set()
        self.twice = 0
        self.since = self.more = 0      # of those sent from `since` on so many are answered
        self.ending = False
        self.changed = threading.Condition()
        self.start()

    def connect(self, address):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.connect((address, 7))
        return sock

    def send(self):
        try:
            self.sock.send(struct.pack("!I", len(self.sent)) + bytes(60))
        except OSError:
            pass                        # as good as lost on the way
        self.sent.append(time.monotonic())

    def take(self):
        try:
            number = struct.unpack("!I", self.sock.recv(2048)[:4])[0]
        except OSError:
            return
        self.note(number)

    def note(self, number):
        with self.changed:
            self.came.append(time.monotonic())
            self.twice += number in self.answered
            self.more += number >= self.since and number not in self.answered
            self.answered.add(number)
            self.changed.notify_all()

    def run(self):
        due = time.monotonic()
        while not self.ending:
            now = time.monotonic()
            if now >= due:
                self.send()
                due = now + self.interval
            elif select.select([self.sock], [], [], due - now)[0]:
                self.take()

    def wait_for_more(self, n):
        """Until @n more are answered of those that are sent from now on."""
        with self.changed:
            self.since, self.more = len(self.sent), 0
            t.check(self.changed.wait_for(lambda: self.more >= n, t.PATIENCE), "the stream has ended: %d sent, %d "
                    "answered" % (len(self.sent), len(self.answered)))

    def gap(self, since=0, until=float("inf")):
        """The longest time without an answer, in s."""
        came = [c for c in self.came if since <= c <= until]
        return max(two - one for one, two in zip(came, came[1:]))

    def stop(self):
        """The numbers of those that were not answered, up to the last that was."""
        self.ending = True
        self.join()
        self.sock.close()
        return [n for n in range(max(self.answered)) if n not in self.answered]


class PortStream(Stream):
    """From an odd port or an even one."""

    def __init__(self, address, odd, **kw):
        self.odd = odd
        super().__init__(address, **kw)

    def connect(self, address):
        passed = []                         # held meanwhile, so that each try gives another
        while True:
            sock = super().connect(address)
            if sock.getsockname()[1] % 2 == self.odd:
                break
            passed.append(sock)
        for other in passed:
            other.close()
        return sock


class TcpStream(Stream):
    """The same on a connection, where nothing may be lost and all comes in its order."""

    def connect(self, address):
        sock = socket.create_connection((address, 7), t.PATIENCE)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.data, self.problem = b"", None
        return sock

    def send(self):
        if len(self.sent) - len(self.answered) < 200:       # what surely fits the buffers: it must not block
            super().send()

    def take(self):
        try:
            data = self.sock.recv(65536)
            self.problem = self.problem or (None if data else "the connection was closed")
        except OSError as e:
            self.problem, data = e, b""
        self.ending = self.ending or bool(self.problem)
        self.data += data
        while len(self.data) >= 64:
            number, = struct.unpack("!I", self.data[:4])
            if number != len(self.answered):
                self.problem = "number %d came after %d others" % (number, len(self.answered))
            self.note(number)
            self.data = self.data[64:]


class Listener:
    """What the guest says on the bridge about where it is."""

    RARP, ARP = 0x8035, 0x0806

    def __init__(self):
        self.socks = {}
        for protocol in (self.RARP, self.ARP):
            sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(protocol))
            sock.bind(("br0", protocol))
            self.socks[protocol] = sock

    def wait_for(self, protocol, n):
        """Until @n frames have come by which the guest says its own address; returns them."""
        mac = bytes.fromhex(MAC.replace(":", ""))
        sock, found, deadline = self.socks[protocol], [], time.monotonic() + t.PATIENCE
        while len(found) < n:
            left = deadline - time.monotonic()
            t.check(left > 0 and select.select([sock], [], [], left)[0],
                    "%d of %d frames of type 0x%x were seen" % (len(found), n, protocol))
            frame = sock.recv(2048)
            # RARP names the address asked for, ARP has the same IP address in both places.
            own = frame[32:38] == mac if protocol == self.RARP else frame[28:32] == frame[38:42]
            if frame[6:12] == mac and own:
                found.append(frame)
        return found

    def close(self):
        for sock in self.socks.values():
            sock.close()
