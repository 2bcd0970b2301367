# SPDX-License-Identifier: BSD-2-Clause
"""What a guest does to its memory meanwhile (guest/dirty.c), and what it says of it."""

import time

STATUS = r"dirty rounds=\d+ mib=(\d+) gap_us=(\d+) now_ns=(\d+) "


class Case:
    """A workload. `data` MiB of the guest's RAM are incompressible, `ws` of them are written at `rate` MiB/s."""

    def __init__(self, name, a, rate=0, ws=0):
        self.name, self.memory = name, a.memory
        self.rate, self.ws = rate / a.scale, ws // a.scale
        self.fill = a.data - self.ws
        self.asked = max(1, round(self.rate)) if rate else 0        # whole MiB/s only
        work = f"ws={self.ws} rate={self.asked}" if rate else "ws=0 idle=1"
        self.cmdline = f"dirty fill={self.fill} {work}"
        self.text = f"{self.rate:g} MiB/s over {self.ws} MiB" if rate else "idle"


def status(machine):
    """What the workload has seen since the last time: (MiB written, largest gap in ms, its clock in s)."""
    machine.send("s")
    mib, gap, now = machine.expect(STATUS).groups()
    return int(mib), int(gap) / 1e3, int(now) / 1e9


def settle(source, seconds):
    """Let the workload run: the rate it reaches, and the largest gap it sees without a migration."""
    first = status(source)
    time.sleep(seconds)
    second = status(source)
    return {"rate": (second[0] - first[0]) / (second[2] - first[2]), "gap_before_ms": second[1]}
