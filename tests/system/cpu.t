#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""CPU models: what ferry cpu prints, guests of a named model or one from a file, their migration, and hosts that lack a
feature, which is named before any RAM is sent."""

import json
import os
import struct
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import ferrytest as t
from checks import at_home, both_named, dirty, end, held, receiver, start, verify
from wire import Proxy, edit, tree_build, tree_parse

PASSED = 0x2A << 1 | 1


def describe(*files):
    status, out, err = t.ferry("cpu", *files)
    t.same((status, err), (0, ""), "ferry cpu")
    return out


def put(name, text):
    path = os.path.join(t.scratch, name)
    with open(path, "wb") as f:
        f.write(text if isinstance(text, bytes) else text.encode())
    return path


def rows(text):
    """The leaves of a description: (function, index) to registers."""
    leaves = {}
    for row in json.loads(text)["cpuid"]:
        head, registers = row.split(": ")
        function, index, _ = head.split()
        leaves[int(function, 16), int(index, 16)] = [int(r, 16) for r in registers.split()]
    return leaves


def change(text, function, index, register, value):
    """The description with another value in a register."""
    model = json.loads(text)
    for i, row in enumerate(model["cpuid"]):
        head, registers = row.split(": ")
        if [int(n, 16) for n in head.split()[:2]] == [function, index]:
            registers = registers.split()
            registers[register] = "%08x" % value
            model["cpuid"][i] = head + ": " + " ".join(registers)
    return json.dumps(model)


def table_of(tree):
    """Cells of the table of a machine tree, and a dictionary of them."""
    cells = tree.child("cpus").properties["ferry,cpuid"]
    numbers = struct.unpack(">%dI" % (len(cells) // 4), cells)
    return {numbers[i:i + 2]: list(numbers[i + 3:i + 7]) for i in range(0, len(numbers), 7)}


def absent_feature():
    """A bit of CPUID.7.0:EBX that this host lacks, with its name."""
    has = rows(describe())[7, 0][1]
    for bit, name in ((16, "avx512f"), (27, "avx512er"), (26, "avx512pf"), (2, "sgx"), (14, "mpx")):
        if not has >> bit & 1:
            return bit, name
    raise t.Failure("this host has everything")


def want(bit):
    """Want one more feature of CPUID.7.0:EBX."""
    def both(root):
        cpus = root.child("cpus").properties
        table = list(struct.unpack(">%dI" % (len(cpus["ferry,cpuid"]) // 4), cpus["ferry,cpuid"]))
        at = [i for i in range(0, len(table), 7) if table[i:i + 2] == [7, 0]][0]
        table[at + 4] |= 1 << bit
        cpus["ferry,cpuid"] = struct.pack(">%dI" % len(table), *table)
    return both


def levels():
    return json.loads(describe())["levels"]


@t.test
def the_description_is_stable():
    text = describe()
    for _ in range(3):
        t.same(describe(), text, "ferry cpu again")
    t.same(json.loads(text)["ferry-cpu"], 1, "version")
    path = put("host.cpu", text)
    t.same(describe(path), text, "what was read back")
    t.same(describe(path, path, path), text, "what a host has in common with itself")


@t.test
def the_largest_common_model():
    text = describe()
    leaves = rows(text)
    a = put("a.cpu", change(text, 1, 0, 2, leaves[1, 0][2] & ~(1 << 23)))            # no popcnt
    b = put("b.cpu", change(text, 7, 0, 1, leaves[7, 0][1] & ~(1 << 5)))             # no avx2
    both = describe(a, b)
    t.same(both, describe(b, a), "the other way round")
    t.same(rows(both)[1, 0][2], leaves[1, 0][2] & ~(1 << 23), "CPUID.1:ECX")
    t.same(rows(both)[7, 0][1], leaves[7, 0][1] & ~(1 << 5), "CPUID.7.0:EBX")
    other = put("other.cpu", change(text, 0, 0, 1, 0x12345678))
    status, out, err = t.ferry("cpu", a, other)
    t.same((status, out), (1, ""), "two vendors")
    t.check("vendor" in err, err)


@t.test
def guests_of_every_model():
    path = put("host.cpu", describe())
    for model in ["host", path] + levels():
        for program in ("cpu seconds=1", "hello"):
            m = t.run(program, "--cpu", model, memory="16", cpus="2")
            m.expect("^PASS " + program.split()[0])
            t.same(m.wait(), PASSED, "exit status with " + model)


def cross(model, check):
    """A guest of that model crosses; @check looks at the tree on the wire."""
    source = t.run("cpu seconds=0", "--cpu", model, memory="16")
    source.expect("^cpu ready")
    destination = t.receive()
    trees = []
    proxy = Proxy(destination.uri, "MACHINE", edit(trees.append))
    start(source, proxy.uri, x_verify=True)
    t.same(source.wait(), 0, "exit status of the source")
    check(table_of(trees[0]))
    destination.send("q")
    destination.expect("^PASS cpu")
    t.same(destination.wait(), PASSED, "exit status of the destination")


@t.test
def a_guest_of_x86_64_v2_crosses():
    if "x86-64-v2" not in levels():
        return "this host is below x86-64-v2"

    def check(table):
        t.same(table[1, 0][2] & 1 << 28, 0, "AVX of x86-64-v2")
        t.same(table[1, 0][2] >> 20 & 1, 1, "SSE4.2 of x86-64-v2")
        t.same(table[7, 0], [0, 0, 0, 0], "CPUID.7.0")
        t.same(table[0xD, 0], [3, 576, 576, 0], "CPUID.D.0")
    cross("x86-64-v2", check)


@t.test
def a_guest_of_a_file_crosses():
    text = describe()
    without = rows(text)[1, 0][2] & ~(1 << 30)                                        # no rdrand
    cross(put("some.cpu", change(text, 1, 0, 2, without)), lambda table: t.same(table[1, 0][2], without, "CPUID.1:ECX"))


@t.test
def a_tree_that_wants_more_is_refused_by_name():
    bit, name = absent_feature()
    dtb = os.path.join(t.scratch, "machine.dtb")
    status, _, err = t.ferry("run", "--kernel", t.GUEST, "--cpu", put("host.cpu", describe()), "--dump-dtb", dtb)
    t.same((status, err), (0, ""), "--dump-dtb")
    with open(dtb, "rb") as f:
        tree = tree_parse(f.read())
    want(bit)(tree)
    status, _, err = t.ferry("run", put("more.dtb", tree_build(tree)))
    t.same(status, 1, "exit status")
    for word in ("CPUID.7.0:EBX", "%s (bit %d)" % (name, bit)):
        t.check(word in err, "%r is not in: %s" % (word, err))


@t.test
def a_destination_that_lacks_a_feature_says_which():
    bit, name = absent_feature()
    source = dirty("fill=2 ws=1 rate=20", "--cpu", "x86-64-v2" if "x86-64-v2" in levels() else "host")
    source.qmp.run("query-migrate")
    before = held(source)
    destination = receiver()
    proxy = Proxy(destination.uri, "MACHINE", edit(want(bit)))
    start(source, proxy.uri)
    both_named(end(source), source, destination, "CPUID.7.0:EBX", name)
    t.same([r.name for r in proxy.seen], ["HELLO", "HELLO", "MACHINE", "REJECT"], "records")
    at_home(source, before, check=False)
    verify(source)


@t.test
def a_table_with_a_leaf_twice_is_refused_by_name():
    def twice(root):
        cpus = root.child("cpus").properties
        cpus["ferry,cpuid"] += cpus["ferry,cpuid"][28:56]
    source = dirty()
    source.qmp.run("query-migrate")
    destination = receiver()
    proxy = Proxy(destination.uri, "MACHINE", edit(twice))
    start(source, proxy.uri)
    both_named(end(source), source, destination, "CPUID.1.0", "two")


@t.test
def an_MSR_that_only_the_other_host_has():
    def strange(value):
        def both(root):
            msrs = [n for n in root.child("cpu@0").walk() if {"index", "value"} <= set(n.properties)]
            t.check(len(msrs) > 10, "%d MSRs" % len(msrs))
            msrs[-1].properties["index"] = struct.pack(">I", 0xDEADBEEF)
            msrs[-1].properties["value"] = struct.pack(">Q", value)
        return both
    source = dirty()
    source.qmp.run("query-migrate")
    before = held(source)
    destination = receiver()
    start(source, Proxy(destination.uri, "STATE", edit(strange(1))).uri)
    both_named(end(source), source, destination, "cpu@0", "MSR", "0xdeadbeef")
    at_home(source, before)
    # It has no use for one that holds nothing.
    destination = t.receive()
    start(source, Proxy(destination.uri, "STATE", edit(strange(0))).uri)
    t.same(source.wait(), 0, "exit status of the source")
    verify(destination)


t.main()
