# SPDX-License-Identifier: BSD-2-Clause
"""The wire format of migration/README.md, written a second time: records, trees, a proxy that knows
them and does harm on demand, and a destination that is no ferry."""

import os
import socket
import struct
import threading
import time

import ferrytest as t

HEADER = struct.Struct(">IHHIIQII")
MAGIC = 0x46525259
MANDATORY = 1
NAMES = ("HELLO", "MACHINE", "ACCEPT", "REJECT", "RAM", "STOPPED", "STATE", "LOADED", "FAILED", "COMMIT",
         "RUNNING", "END", "PROGRESS", "BLOCK", "CHANNEL", "ROUND", "BACKLOG")
TYPES = {name: number for number, name in enumerate(NAMES, 1)}
TYPES.update(MISSING=24, LISTEN=25, READY=26, REQUEST=27, RAM_MAP=30, RAM_ZSTD=40)
NAME_OF = {number: name for name, number in TYPES.items()}
OPTIONAL = ("PROGRESS", "BACKLOG")
SOURCE, DESTINATION = "source", "destination"


# --- checksums ---------------------------------------------------------------------------------

def make_table():
    table = []
    for n in range(256):
        for _ in range(8):
            n = n >> 1 ^ (0x82F63B78 if n & 1 else 0)
        table.append(n)
    return tuple(table)


TABLE = make_table()


def crc32c(data, crc=0):
    table, crc = TABLE, crc ^ 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 255] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


# --- records -----------------------------------------------------------------------------------

class Record:
    """Header and metadata of one record; the payload stays where it is."""

    def __init__(self, name, meta=b"", payload_len=0, sequence=0, side=None, flags=None):
        self.name, self.meta, self.payload_len = name, meta, payload_len
        self.sequence, self.side = sequence, side
        self.flags = (0 if name in OPTIONAL else MANDATORY) if flags is None else flags

    def __len__(self):
        return HEADER.size + len(self.meta) + self.payload_len

    def __str__(self):
        return "%s %s, number %d" % (self.side, self.name, self.sequence)

    def encode(self):
        head = HEADER.pack(MAGIC, TYPES.get(self.name, 999), self.flags, self.sequence, len(self.meta),
                           self.payload_len, crc32c(self.meta), 0)[:-4]
        return head + struct.pack(">I", crc32c(head)) + self.meta


def read_exactly(sock, size):
    """@size bytes, or fewer where the stream ends."""
    data = bytearray()
    while len(data) < size:
        more = sock.recv(size - len(data))
        if not more:
            break
        data += more
    return bytes(data)


def decode(header, side, read, verify=False):
    """The record that begins with @header; its metadata come from read(). @verify: all that the format says."""
    magic, number, flags, sequence, meta_len, payload_len, meta_crc, crc = HEADER.unpack(header)
    t.same(magic, MAGIC, "magic")
    t.check(number in NAME_OF, "there is no record type %d" % number)
    meta = read(meta_len)
    t.same(len(meta), meta_len, "length of the metadata of a %s" % NAME_OF[number])
    record = Record(NAME_OF[number], meta, payload_len, sequence, side, flags)
    if verify:
        t.same(crc32c(header[:28]), crc, "checksum of the header of %s" % record)
        t.same(crc32c(meta), meta_crc, "checksum of the metadata of %s" % record)
        t.same(flags, 0 if record.name in OPTIONAL else MANDATORY, "flags of %s" % record)
    return record


def split(data):
    """The records of a saved machine, each with where it begins. Behind the last one there may be RAM."""
    at, records = 0, []
    while not records or records[-1].name != "END":
        meta = data[at + HEADER.size:]
        record = decode(data[at:at + HEADER.size], SOURCE, lambda n: meta[:n])
        record.at = at
        records.append(record)
        at += len(record)
    return records


# --- trees: flattened device trees, as the Devicetree Specification has them --------------------

BEGIN, END, PROPERTY, NOP, FINISH = 1, 2, 3, 4, 9


class Node:
    def __init__(self, name=""):
        self.name, self.properties, self.children = name, {}, []

    def child(self, path):
        node = self
        for name in path.split("/"):
            found = [c for c in node.children if c.name == name]
            t.check(found, "the tree has no node %s" % path)
            node = found[0]
        return node

    def walk(self):
        yield self
        for child in self.children:
            yield from child.walk()

    def u64(self, name):
        return struct.unpack(">Q", self.properties[name])[0]

    def text(self, name):
        return self.properties[name].rstrip(b"\0").decode()


def tree_parse(blob):
    _, _, at, strings = struct.unpack(">4I", blob[:16])
    stack, root = [], None
    while True:
        token, = struct.unpack_from(">I", blob, at)
        at += 4
        if token == BEGIN:
            end = blob.index(b"\0", at)
            node = Node(blob[at:end].decode())
            at = end // 4 * 4 + 4
            if stack:
                stack[-1].children.append(node)
            else:
                root = node
            stack.append(node)
        elif token == PROPERTY:
            size, name = struct.unpack_from(">2I", blob, at)
            name += strings
            stack[-1].properties[blob[name:blob.index(b"\0", name)].decode()] = blob[at + 8:at + 8 + size]
            at += 8 + (size + 3) // 4 * 4
        elif token == END:
            stack.pop()
        elif token == FINISH:
            return root
        else:
            t.check(token == NOP, "token %d in a tree" % token)


def tree_build(root):
    strings, body = bytearray(), bytearray()

    def aligned(data):
        return bytes(data) + b"\0" * (-len(data) % 4)

    def put(node):
        body.extend(struct.pack(">I", BEGIN) + aligned(node.name.encode() + b"\0"))
        for name, value in node.properties.items():
            body.extend(struct.pack(">3I", PROPERTY, len(value), len(strings)) + aligned(value))
            strings.extend(name.encode() + b"\0")
        for child in node.children:
            put(child)
        body.extend(struct.pack(">I", END))

    put(root)
    body.extend(struct.pack(">I", FINISH))
    structure = 40 + 16                     # behind the header and an empty reservation map
    total = structure + len(body) + len(strings)
    return struct.pack(">10I", 0xD00DFEED, total, structure, structure + len(body), 40, 17, 16, 0,
                       len(strings), len(body)) + bytes(16) + bytes(body) + bytes(strings)


def message(**properties):
    """The tree of a message: strings and 64-bit numbers."""
    root = Node()
    for name, value in properties.items():
        root.properties[name.replace("_", "-")] = (
            struct.pack(">Q", value) if isinstance(value, int) else value.encode() + b"\0")
    return tree_build(root)


# --- a proxy -----------------------------------------------------------------------------------

CUT, DROP = object(), object()


class Proxy:
    """Stands between a source and the destination at @uri. When the @nth record @name passes (every record when
    @name is None), deed(proxy, record) is called before any of it is sent on, in the thread of that direction, and
    says what becomes of it:
        None    it is sent on          CUT   the connection ends before it
        n       n of its bytes are sent on, then the connection ends
        DROP    it is forgotten        bytes are sent instead of its header and metadata
    @rate: bytes a second that pass towards the destination. @side: on whose host it stands. @host: listen at this
    address of ours instead. @connections: so many, which end together. .seen: all records so far."""

    def __init__(self, uri, name=None, deed=None, nth=1, rate=None, side=SOURCE, host=None, connections=1):
        self.name, self.deed, self.nth, self.rate = name, deed, nth, rate
        self.seen, self.lock = [], threading.Lock()
        self.reached, self.released = threading.Event(), threading.Event()
        self.problem, self.due = None, 0
        self.side, self.target, self.threads = side, uri, []
        if host:
            self.listener = socket.create_server((host, 0))
            self.uri = "tcp:%s:%d" % self.listener.getsockname()
        else:
            self.listener, self.uri = t.place.listen(side)
        self.sockets = []
        self.start(self.accept, connections)
        t.machines.append(self)             # so that the end of a test ends it too

    def start(self, function, *arguments):
        thread = threading.Thread(target=function, args=arguments, daemon=True)
        self.threads.append(thread)
        thread.start()

    def accept(self, connections):
        for _ in range(connections):
            try:
                source, _ = self.listener.accept()
                destination = connect(self.target, self.side)
            except OSError as e:
                self.problem = e
                self.listener.close()
                return
            self.sockets += [source, destination]
            self.start(self.pump, source, destination, SOURCE)
            self.start(self.pump, destination, source, DESTINATION)

    def pump(self, a, b, side):
        """Records from @a to @b until one of them ends."""
        try:
            while self.pass_record(a, b, side):
                pass
        except OSError:
            pass
        except Exception as e:              # what came is no record: the test shall see it
            self.problem = self.problem or e
        for sock, how in ((b, socket.SHUT_WR), (a, socket.SHUT_RD)):
            try:
                sock.shutdown(how)
            except OSError:
                pass

    def pass_record(self, a, b, side):
        header = read_exactly(a, HEADER.size)
        if len(header) < HEADER.size:
            b.sendall(header)
            return False
        record = decode(header, side, lambda n: read_exactly(a, n))
        with self.lock:
            self.seen.append(record)
            wanted = self.name is None or (record.name == self.name and self.count(self.name) == self.nth)
        verdict = self.deed(self, record) if self.deed and wanted else None
        data = header + record.meta
        if verdict is CUT or (verdict is not None and not isinstance(verdict, bytes) and verdict is not DROP):
            left = 0 if verdict is CUT else verdict
            a.shutdown(socket.SHUT_WR)      # no answer passes any more
            b.sendall(data[:left])
            self.payload(a, b, side, max(0, left - len(data)))
            self.cut()
            return False
        if verdict is DROP:
            self.payload(a, None, side, record.payload_len)
            return True
        b.sendall(verdict if verdict is not None else data)
        return self.payload(a, b, side, record.payload_len)

    def payload(self, a, b, side, size):
        while size:
            data = a.recv(min(size, 1 << 16 if not self.rate else 1 << 13))
            if not data:
                return False
            if b:
                b.sendall(data)
            size -= len(data)
            if self.rate and side == SOURCE:
                self.due = max(self.due, time.monotonic()) + len(data) / self.rate
                time.sleep(max(0, self.due - time.monotonic() - 0.002))
        return True

    def count(self, name):
        return sum(r.name == name for r in self.seen)

    def reach(self):
        """Called by a deed: the test goes on from .wait()."""
        self.reached.set()

    def wait(self):
        t.check(self.reached.wait(t.PATIENCE), "no %s came; there were: %s" %
                (self.name, ", ".join(map(str, self.seen))))

    def hold(self):
        """Called by a deed: nothing passes until release()."""
        self.reach()
        self.released.wait(t.PATIENCE)

    def release(self):
        self.released.set()

    def cut(self):
        for sock in self.sockets:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def diagnosis(self):
        text = "\n# the proxy saw %s" % ", ".join(r.name for r in self.seen)
        return text + ("\n# the proxy's own problem: %r" % self.problem if self.problem else "")

    def kill(self):
        self.release()
        self.cut()
        if self.threads[0].is_alive():      # accept() still waits; nothing else wakes it
            self.target = "unix:"
            try:
                connect(self.uri, self.side).close()
            except OSError:
                pass
        for thread in self.threads:
            thread.join()
        for sock in self.sockets + [self.listener]:
            sock.close()
        path = self.uri.partition("unix:")[2]
        if path and os.path.exists(path):
            os.unlink(path)


def connect(uri, side=SOURCE):
    """A connection from the host of @side to what listens at @uri."""
    scheme, rest = uri.split(":", 1)
    sock = t.place.socket(side, socket.AF_UNIX if scheme == "unix" else socket.AF_INET)
    host, _, port = rest.rpartition(":")
    sock.connect(rest if scheme == "unix" else (host, int(port)))
    return sock


# Deeds.

def cut(proxy, record):
    """The connection ends instead of this record."""
    return CUT


def cut_after(proxy, record):
    """The connection ends after this record."""
    return len(record)


def hold(proxy, record):
    """The record waits for proxy.release()."""
    proxy.hold()


def stall(proxy, record):
    """Neither this record nor anything later comes, but the connection stays."""
    proxy.hold()
    return CUT


def forget(proxy, record):
    return DROP


def kill(machine, then=None):
    """A process dies just before the record is sent on; then it is, unless @then says otherwise."""
    def deed(proxy, record):
        machine.process.kill()
        machine.process.wait()
        proxy.reach()
        return then
    return deed


def edit(change):
    """The metadata are a tree, which change(root) may alter."""
    def deed(proxy, record):
        root = tree_parse(record.meta)
        change(root)
        return Record(record.name, tree_build(root), record.payload_len, record.sequence).encode()
    return deed


# --- a destination that is no ferry --------------------------------------------------------------

class Peer:
    """One end of a connection, speaking by hand."""

    def __init__(self, sock, side=DESTINATION):
        self.sock, self.side, self.sent, self.received = sock, side, 0, 0
        sock.settimeout(t.PATIENCE)

    def say(self, name, meta=b"", payload=b"", **kw):
        self.sock.sendall(Record(name, meta, len(payload), self.sent, **kw).encode() + payload)
        self.sent += 1

    def hear(self, name=None):
        header = read_exactly(self.sock, HEADER.size)
        t.same(len(header), HEADER.size, "bytes of the header of record %d" % self.received)
        record = decode(header, None, lambda n: read_exactly(self.sock, n), verify=True)
        t.same(record.sequence, self.received, "sequence number of a %s" % record.name)
        if name:
            t.same(record.name, name, "record %d" % self.received)
        self.received += 1
        return record

    def payload(self, record):
        data = read_exactly(self.sock, record.payload_len)
        t.same(len(data), record.payload_len, "bytes of the payload of a %s" % record.name)
        return data

    def ended(self):
        """Nothing but the end of the stream is left."""
        try:
            return self.sock.recv(1) == b""
        except ConnectionResetError:
            return True

    def close(self):
        self.sock.close()


def hello(**changes):
    facts = dict(version_min=1, version_max=1, machine="ferry,machine-x86_64", build="by hand", cpu="",
                 boot_id="", ram_record_max=1 << 28)
    facts.update(changes)
    return message(**facts)
