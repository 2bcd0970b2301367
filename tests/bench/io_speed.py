# SPDX-License-Identifier: BSD-2-Clause
"""How much a disk and a network card carry: the same guest, file and tap under ferry and under QEMU, by turns."""

import contextlib
import ctypes
import json
import os
import subprocess

import measure
from machines import Failed, Ferry, Qemu, ferrytest

DISK_MIB = 64
DISKS = {"read 4 KiB random, 1 at a time": "depth=1", "read 4 KiB random, 32 at a time": "depth=32",
         "read 128 KiB in order, 4 at a time": "depth=4 bytes=131072 order=sequential"}
NETS = {"send 64 bytes of UDP": 64, "send 1400 bytes of UDP": 1400}
TAP, HOST, CLONE_NEWNET = "bench", "10.0.0.1", 0x40000000
# Both ways QEMU has to reach a file; the network of each is its own, not the kernel's.
WAYS = {"QEMU, io_uring": "io_uring", "QEMU, threads": "threads"}


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
        return ["-drive", f"file={disk},if=none,id=d,format=raw,aio={WAYS[contender.name]}", "-device",
                "virtio-blk-device,drive=d"]
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


def run_net(contender, size, ms, net):
    """Frames and bytes a second, as the tap counts them: what was not taken does not count."""
    # Without mergeable buffers QEMU 7.2 leaves num_buffers at 0, which the guest does not let pass (5.1.6.4.1).
    machine = contender.start(contender.command(f"vio dev=net seconds=3600 send={size} mrg=2048", 64) +
                              options(contender, net=net))
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
        for text, size in NETS.items() if net else ():
            runners = {c.name: lambda c=c, size=size: run_net(c, size, ms, net) for c in contenders[:2]}
            results.append(by_turns(a, text, runners, say))
    return results
