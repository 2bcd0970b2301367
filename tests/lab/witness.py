# SPDX-License-Identifier: BSD-2-Clause
"""The other half of witness.c: what is outside of the guest when it moves."""

import queue
import re
import socket
import struct
import threading
import time

import ferrytest as t

MESSAGE, INTERVAL = 256, 0.02
LAST = 1 << 63
MASK = (1 << 64) - 1
IN, OUT = 1, 2                          # as the guest sees it: where a message belongs


def following(state, n):
    """@n numbers of xorshift64* from @state on."""
    numbers = []
    for _ in range(n):
        state ^= state >> 12
        state ^= state << 25 & MASK
        state ^= state >> 27
        numbers.append(state * 0x2545F4914F6CDD1D & MASK)
    return numbers


def message(place, number):
    words = MESSAGE // 8 - 2
    return (struct.pack(">2Q", place, number) +
            struct.pack("<%dQ" % words, *following(((place << 40 ^ number) * 2 + 1) & MASK, words)))


class Stream:
    """The client of the guest's TCP stream: numbered messages in both directions, checked at both ends."""

    def __init__(self, address, port):
        self.sock = t.wait_until(lambda: self.connect(address, port), "the guest's port")
        self.sent = self.received = 0
        self.problem, self.last = None, False
        self.at = time.monotonic()      # when the newest message came
        self.silence = 0                # the longest between two
        self.changed = threading.Condition()
        self.stopping = threading.Event()
        self.threads = [threading.Thread(target=self.guarded, args=(f,), daemon=True) for f in (self.send, self.receive)]
        for thread in self.threads:
            thread.start()

    @staticmethod
    def connect(address, port):
        try:
            sock = socket.create_connection((address, port), 5)
        except OSError:
            return None
        sock.settimeout(None)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def guarded(self, function):
        try:
            function()
        except (OSError, t.Failure) as e:
            with self.changed:
                self.problem = self.problem or e
                self.changed.notify_all()

    def send(self):
        while not self.stopping.wait(INTERVAL):
            self.sock.sendall(message(IN, self.sent + 1))
            self.sent += 1
        self.sock.shutdown(socket.SHUT_WR)

    def receive(self):
        while not self.last:
            data = self.sock.recv(MESSAGE, socket.MSG_WAITALL)
            t.same(len(data), MESSAGE, "bytes of message %d of the stream" % (self.received + 1))
            number, = struct.unpack_from(">Q", data, 8)
            t.same(number & ~LAST, self.received + 1, "number of the next message of the stream")
            t.same(data, message(OUT, number), "message %d of the stream" % (number & ~LAST))
            with self.changed:
                now = time.monotonic()
                self.silence, self.at = max(self.silence, now - self.at), now
                self.received += 1
                self.last = bool(number & LAST)
                self.changed.notify_all()
        t.same(self.sock.recv(1), b"", "what follows the last message of the stream")

    def more(self, n=20):
        """Wait until @n more messages have come."""
        with self.changed:
            wanted = self.received + n
            self.changed.wait_for(lambda: self.problem or self.received >= wanted, t.PATIENCE)
            t.check(not self.problem, "the stream: %s" % self.problem)
            t.check(self.received >= wanted, "the stream stands still at message %d" % self.received)

    def since(self, at):
        """Wait for a message that comes later than @at; how much later that is, in seconds."""
        with self.changed:
            self.changed.wait_for(lambda: self.problem or self.at > at, t.PATIENCE)
            t.check(not self.problem, "the stream: %s" % self.problem)
            t.check(self.at > at, "the stream stands still at message %d" % self.received)
            return self.at - at

    def end(self):
        """The guest has been told to stop: all of what it sent must come, then all of ours must go."""
        with self.changed:
            self.changed.wait_for(lambda: self.problem or self.last, t.PATIENCE)
        self.stopping.set()
        for thread in self.threads:
            thread.join(t.PATIENCE)
        self.sock.close()
        t.check(not self.problem, "the stream: %s" % self.problem)
        t.check(self.last, "the stream has not ended")


class Console:
    """A guest's serial port wherever the guest is: its numbered lines are taken out and checked, the rest is the
    shell's, with send() and expect() as of a machine."""

    LINE = re.compile(r"<(\d+):([0-9a-f]{8})>\r\n")
    BEGUN = re.compile(r"<\d*(:[0-9a-f]{0,8}(>\r?)?)?$")

    def __init__(self, machine):
        self.pending = self.text = ""
        self.lines, self.problem = 0, None
        self.changed = threading.Condition()
        self.queue = queue.Queue()
        self.follow(machine)
        threading.Thread(target=self.read, daemon=True).start()

    def follow(self, machine):
        """The guest is in @machine now, whose port is connected; what is left in the old one is read first."""
        self.machine = machine
        machine.sock.settimeout(None)
        self.queue.put(machine.sock)

    def read(self):
        while True:
            sock = self.queue.get()
            try:
                for data in iter(lambda: sock.recv(65536), b""):
                    self.take(data.decode("latin-1"))
            except OSError:
                pass                    # the machine was killed

    def take(self, data):
        with self.changed:
            self.pending += data
            for found in self.LINE.finditer(self.pending):
                self.check_line(int(found.group(1)), int(found.group(2), 16))
            rest = self.LINE.sub("", self.pending)
            begun = self.BEGUN.search(rest)
            at = begun.start() if begun else len(rest)
            self.text, self.pending = self.text + rest[:at], rest[at:]
            self.changed.notify_all()

    def check_line(self, number, mark):
        if number != self.lines + 1 or mark != following(number * 2 + 1, 1)[0] >> 32:
            self.problem = self.problem or "line %d came after line %d" % (number, self.lines)
        self.lines = number

    def more(self, n=3):
        """Wait until @n more lines have come."""
        with self.changed:
            wanted = self.lines + n
            self.changed.wait_for(lambda: self.problem or self.lines >= wanted, t.PATIENCE)
            t.check(not self.problem, "the console: %s" % self.problem)
            t.check(self.lines >= wanted, "the console stands still at line %d" % self.lines)

    def send(self, text):
        self.machine.send(text)

    def expect(self, pattern):
        with self.changed:
            found = self.changed.wait_for(lambda: re.search(pattern, self.text, re.MULTILINE), t.PATIENCE)
            t.check(found, "the guest did not print %r; its last output: %r" % (pattern, self.text[-300:]))
            self.text = self.text[found.end():]
            return found
