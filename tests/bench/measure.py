# SPDX-License-Identifier: BSD-2-Clause
"""What a process costs, and on what machine: CPU time, memory, conditions."""

import datetime
import os
import platform
import re
import subprocess
import time

MIB = 1 << 20


def cpu_ns(pid):
    """CPU time of a process, ended threads included, in ns: its CPUCLOCK_SCHED clock (linux/posix-timers.h)."""
    return time.clock_gettime_ns(~pid << 3 | 2)


class Cpu:
    """CPU time of a VMM, the guest's own apart: what the vCPU threads run is counted for itself."""

    def __init__(self, machine):
        self.total, self.vcpu, self.vcpu_system = cpu_ns(machine.pid), 0, 0
        for tid in machine.vcpu_threads():
            folder = f"/proc/{machine.pid}/task/{tid}"
            with open(folder + "/schedstat") as f:
                self.vcpu += int(f.read().split()[0])
            with open(folder + "/stat") as f:
                self.vcpu_system += int(f.read().rsplit(")", 1)[1].split()[12])     # stime, proc(5)

    def since(self, before):
        """In seconds: VMM threads, vCPU threads, and of those the time in the kernel outside the guest."""
        vcpu = self.vcpu - before.vcpu
        return {"cpu": (self.total - before.total - vcpu) / 1e9, "vcpu": vcpu / 1e9,
                "vcpu_system": (self.vcpu_system - before.vcpu_system) / os.sysconf("SC_CLK_TCK")}


def memory_beyond_ram(pid, ram):
    """(Pss, Rss) of a process in bytes without its mapping of guest RAM, which is the one of at least that size."""
    pss = rss = size = 0
    with open(f"/proc/{pid}/smaps") as f:
        for line in f:
            field = re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line)
            if field:
                size = int(field.group(2), 16) - int(field.group(1), 16)
            elif size < ram and line.startswith(("Pss:", "Rss:")):
                kib = int(line.split()[1])
                pss += kib << 10 if line[0] == "P" else 0
                rss += kib << 10 if line[0] == "R" else 0
    return pss, rss


def first_line(path, default="unknown"):
    try:
        with open(path) as f:
            return f.readline().strip()
    except OSError:
        return default


def output(*argv):
    try:
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def cpu_info():
    with open("/proc/cpuinfo") as f:
        text = f.read()
    model = re.search(r"^model name\s*: (.*)$", text, re.M)
    return model.group(1) if model else "unknown", re.search(r"^flags\s*: (.*)$", text, re.M).group(1).split()


def kvm_kind(flags):
    if not os.path.exists("/dev/kvm"):
        return "none"
    kinds = [k for k in ("intel", "amd", "pvm") if os.path.isdir("/sys/module/kvm_" + k)]
    kind = "kvm_" + (kinds[0] if kinds else "unknown")
    if "svm" not in flags and "vmx" not in flags:
        kind += ", no VMX or SVM in the CPU flags"
    if "hypervisor" not in flags:
        return kind + ", on the bare machine"
    vendor = first_line("/sys/class/dmi/id/sys_vendor")
    return kind + f", nested in a virtual machine ({vendor})"


def meminfo(name):
    """A line of /proc/meminfo, in bytes."""
    with open("/proc/meminfo") as f:
        return int(re.search(name + r":\s+(\d+) kB", f.read()).group(1)) << 10


def conditions():
    """Under what circumstances figures came about, as (name, value)."""
    top = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    model, flags = cpu_info()
    memory = meminfo("MemTotal") // MIB
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "host": f"{os.cpu_count()} CPUs, {memory} MiB RAM, {output('sh', '-c', '. /etc/os-release; echo $PRETTY_NAME')}",
        "CPU": model,
        "KVM": kvm_kind(flags),
        "kernel": platform.release(),
        "huge pages": first_line("/sys/kernel/mm/transparent_hugepage/enabled"),
        "TCP buffers": f"send {first_line('/proc/sys/net/ipv4/tcp_wmem')}, "
                       f"receive {first_line('/proc/sys/net/ipv4/tcp_rmem')}",
        "ferry": output("git", "-C", top, "describe", "--always", "--dirty"),
        "QEMU": output("qemu-system-x86_64", "--version").splitlines()[0],
    }
