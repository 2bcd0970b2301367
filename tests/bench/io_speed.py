# SPDX-License-Identifier: BSD-2-Clause
"""How much a disk and a network card carry: the same guest, file and tap under ferry and under QEMU, by turns."""

import contextlib
import ctypes
import json
import os
import re
import subprocess

import measure
from machines import FLOOD, Failed, Ferry, Qemu, ferrytest

DISK_MIB = 64
DISKS = {"read 4 KiB random, 1 at a time": "depth=1", "read 4 KiB random, 32 at a time": "depth=32",
         "read 128 KiB in order, 4 at a time": "depth=4 bytes=131072 order=sequential"}
SIZES = (64, 1400)      # of UDP datagrams
HEADERS = 14 + 20 + 8   # Ethernet, IP, UDP
TAP, HOST, GUEST, CLONE_NEWNET = "bench", "10.0.0.1", "10.0.0.2", 0x40000000
# QEMU's ways to reach a file, the last with a thread for the disk alone, which polls its queue; the network of each is
# its own, not the kernel's.
WAYS = {"QEMU, io_uring": ("io_uring", False), "QEMU, threads": ("threads", False),
        "QEMU, iothread": ("io_uring", True)}


@contextlib.contextmanager
def tap():
    """A tap, in a network namespace that goes with this process; None without the right to make them."""
    if ctypes.CDLL(None).unshare(CLONE_NEWNET):
        yield None
        return
    for words in (f"tuntap add {TAP} mode tap vnet_hdr", f"addr add {HOST}/24 dev {TAP}", f"link set {TAP} up",
                  "link set lo up"):
        subprocess.run(["ip", *words.split()], check=True)
    yield TAP


def options(contender, disk=None, net=None):
    """What gives this VMM the disk, or the tap."""
    if isinstance(contender, Ferry):
        return ["--disk", disk] if disk else ["--net", f"tap,name={net}"]
    if disk:
        way, thread = WAYS[contender.name]
        return ["-drive", f"file={disk},if=none,id=d,format=raw,aio={way}", "-object", "iothread,id=t", "-device",
                "virtio-blk-device,drive=d" + (",iothread=t" if thread else "")]
    return ["-netdev", f"tap,id=n,ifname={net},script=no,downscript=no", "-device", "virtio-net-device,netdev=n"]


def run_disk(contender, words, ms, disk):
    """Requests and bytes a second."""
    machine = contender.start(contender.command(f"speed {words} ms={ms}", 64) + options(contender, disk=disk))
    try:
        requests, size, ns = map(int, machine.expect(r"speed requests=(\d+) bytes=(\d+) ns=(\d+)\n").groups())
        return {"rate": requests * 1e9 / ns, "bytes": size * 1e9 / ns}
    except (Failed, OSError) as e:
        return {"failed": str(e)}
    finally:
        machine.end()


def frames(net):
    """Frames and bytes that the tap was given so far."""
    out = subprocess.run(["ip", "-j", "-s", "link", "show", net], check=True, stdout=subprocess.PIPE).stdout
    seen = json.loads(out)[0]["stats64"]["rx"]
    return seen["packets"], seen["bytes"]


def start_net(contender, words, net):
    """A guest with a network card on that tap."""
    # Without mergeable buffers QEMU 7.2 leaves num_buffers at 0, which the guest does not let pass (5.1.6.4.1).
    return contender.start(contender.command(f"vio dev=net seconds=3600 mrg=2048 {words}", 64) +
                           options(contender, net=net))


def run_send(contender, size, ms, net):
    """Frames and bytes a second, as the tap counts them: what was not taken does not count."""
    machine = start_net(contender, f"send={size}", net)
    line, idle = r"vio net ns=(\d+) .*\n", frames(net)[0]
    try:
        machine.expect("vio ready")
        ferrytest.wait_until(lambda: frames(net)[0] > idle + 100, "the guest to send", contender.options.patience)
        machine.send("s")
        began, before = int(machine.expect(line).group(1)), frames(net)
        ferrytest.select_nothing(ms / 1e3)
        machine.send("s")
        ended, after = int(machine.expect(line).group(1)), frames(net)
        seconds = (ended - began) / 1e9
        return {"rate": (after[0] - before[0]) / seconds, "bytes": (after[1] - before[1]) / seconds}
    except (Failed, ferrytest.Failure, OSError) as e:
        return {"failed": str(e)}
    finally:
        machine.end()


def run_receive(contender, size, ms, net):
    """The same for what the guest has received, as flood.c finds out by its answers."""
    machine = start_net(contender, "", net)
    try:
        machine.expect("vio ready")
        done = subprocess.run([FLOOD, GUEST, str(size), str(int(ms))], capture_output=True, text=True)
        found = re.match(r"frames=(\d+) ns=(\d+) lost=(\d+)", done.stdout)
        if not found:
            raise Failed(f"flood: {done.stderr.strip()}")
        count, ns, lost = map(int, found.groups())
        if lost:
            raise Failed(f"{lost} groups of frames went unanswered")
        return {"rate": count * 1e9 / ns, "bytes": count * (size + HEADERS) * 1e9 / ns}
    except (Failed, OSError) as e:
        return {"failed": str(e)}
    finally:
        machine.end()


def describe(result):
    if "failed" in result:
        return "failed: " + result["failed"]
    return f"{result['rate']:.0f} a second, {result['bytes'] / measure.MIB:.1f} MiB/s"


def by_turns(a, text, runners, say):
    found, turns = {name: [] for name in runners}, list(runners.items())
    for number in range(-a.warm_up, a.runs):
        for name, runner in turns:
            result = runner()
            if number >= 0:
                found[name].append(result)
            say(f"{text} {number + 1}/{a.runs} {name}: {describe(result)}")
        turns.append(turns.pop(0))
    return {"text": text, "runs": found}


def measure_io(a, say):
    """One result a workload. Each contender has a disk of its own: QEMU's is not let go at once."""
    contenders, ms, results = [Ferry("ferry", a)] + [Qemu(name, a) for name in WAYS], 1000 * a.settle, []
    disks = {c.name: os.path.join(ferrytest.scratch, f"disk{i}") for i, c in enumerate(contenders)}
    for path in disks.values():
        with open(path, "wb") as f:
            f.write(os.urandom(measure.MIB) * DISK_MIB)
    for text, words in DISKS.items():
        runners = {c.name: lambda c=c, words=words: run_disk(c, words, int(ms), disks[c.name]) for c in contenders}
        results.append(by_turns(a, text, runners, say))
    with tap() as net:
        if not net:
            say("bench: no right to make a tap: networks are left out")
        for text, runner in (("send", run_send), ("receive", run_receive)) if net else ():
            for size in SIZES:
                runners = {name: lambda c=c, size=size, runner=runner: runner(c, size, ms, net)
                           for name, c in zip(("ferry", "QEMU"), contenders)}
                results.append(by_turns(a, f"{text} {size} bytes of UDP", runners, say))
    return results
