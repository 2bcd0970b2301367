# SPDX-License-Identifier: BSD-2-Clause
"""A sender and a receiver that print what they cost: bare.c and ram.c."""

import re
import subprocess


def costs(text):
    return {k: int(v) for k, v in re.findall(r"(\w+)=(\d+)", text)}


def run_pair(receive, send):
    """A receiver that says where it is, and a sender that is told so: what both cost."""
    with subprocess.Popen(receive, stdout=subprocess.PIPE, text=True) as receiver:
        try:
            where = receiver.stdout.readline().strip().partition("=")[2]
            sent = costs(subprocess.run(send(where), stdout=subprocess.PIPE, text=True, check=True).stdout)
            ends = [sent, costs(receiver.communicate()[0])]
        except subprocess.CalledProcessError as e:
            receiver.kill()
            return {"failed": str(e)}
    return {"total": sent["ns"] / 1e9, "cpu": sum(e["cpu_ns"] for e in ends) / 1e9,
            "ends": [{"cpu": e["cpu_ns"] / 1e9} for e in ends], "syscalls": [e["syscalls"] for e in ends],
            **({"bytes": sent["bytes"], "copied": [e["copied"] / e["bytes"] for e in ends]} if "bytes" in sent else {})}
