#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""The network device on taps of a bridge and on passt: it answers, it crosses while a numbered stream
runs, and the network learns at once where the guest is.

All of it happens in a network namespace of its own, which ends with the script."""

import os
import re
import shutil
import socket
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import ferrytest as t
import linuxtest
from checks import end, start
from nettest import (HOST, MAC, PASSED, Listener, PortStream, Stream, bridge_port, exists, ip, make_bridge, ping,
                     tap_fd, udp_echo)
from wire import Proxy, hold

GUEST_IP = "10.0.0.2"


def enter_namespace():
    """Run on in a network namespace, with a bridge in it; why that cannot be, or None."""
    if os.environ.get("FERRY_TEST_NETNS") is None:
        if os.geteuid() != 0:
            return "needs root, for a network namespace"
        for tool in ("unshare", "ip", "bridge"):
            if not shutil.which(tool):
                return "%s is not installed" % tool
        os.environ["FERRY_TEST_NETNS"] = "1"
        os.execvp("unshare", ["unshare", "--net", sys.executable] + sys.argv)
    try:
        os.close(tap_fd("probe"))
        make_bridge()
    except (OSError, subprocess.SubprocessError) as e:
        return "no taps or bridges: %s" % e
    return None


def guest(net, options="", *more, **kw):
    """A guest that answers; its tap t0 joins the bridge."""
    m = t.run("vio seconds=6000 ip=%s peer=%s %s" % (GUEST_IP, HOST, options),
              "--net", net, *more, **kw)
    t.wait_until(lambda: m.ended() or exists("t0"), "the tap")
    t.check(not m.ended(), "ferry ended early: " + m.stderr())
    ip("link", "set", "t0", "master", "br0")
    m.expect("^vio net .*\n")
    m.expect("^vio ready.*\n")
    return m


def report(machine):
    """What the guest has counted."""
    machine.send("s")
    line = machine.expect(r"^vio net ns=.*\n")[0]
    return {k: int(v) for k, v in re.findall(r"(\w+)=(\d+)", line)}


def finish(machine, said=False):
    """@said: something on stderr, as of a failed migration."""
    machine.send("q")
    machine.expect("^PASS vio")
    t.same(machine.wait(), PASSED, "exit status")
    t.same(bool(machine.stderr()), said, "whether stderr says something: %r" % machine.stderr())


def answers(sizes=(4, 100, 1472)):
    ping(GUEST_IP)
    for size in sizes:
        udp_echo(GUEST_IP, size)


@t.test
def guest_answers_on_a_tap_that_ferry_makes():
    for options in ("irq=0", "irq=1", "event_idx=0 indirect=0", "csum=1", "mrg=300 csum=1"):
        m = guest("tap,name=t0,mac=" + MAC, options)
        answers()
        r = report(m)
        t.check(r["icmp"] >= 1 and r["echo"] >= 3, "counted: %r" % r)
        t.check(("mrg" in options) == (r["merged"] > 0), "counted: %r" % r)
        finish(m)
        t.check(not exists("t0"), "the tap was left behind")


@t.test
def guest_answers_on_taps_that_were_there():
    for how, net in (("", "tap,name=t0"), ("multi_queue", "tap,name=t0"),
                     ("multi_queue", "tap,name=t0,queues=3")):
        ip("tuntap", "add", "t0", "mode", "tap", "vnet_hdr", *how.split())
        ip("link", "set", "t0", "up")
        m = guest(net)
        answers()
        finish(m)
        t.check(exists("t0"), "the tap is gone")
        ip("tuntap", "del", "t0", "mode", "tap", *how.split())


@t.test
def guest_answers_on_a_tap_given_by_descriptor():
    fd = tap_fd("t0")
    ip("link", "set", "t0", "up", "master", "br0")
    m = guest("tap,fd=%d" % fd, fds=(fd,))
    os.close(fd)
    answers()
    finish(m)


@t.test
def tap_that_is_taken_is_an_error_on_both_sides_and_the_guest_goes_on():
    m = guest("tap,name=t0")
    d = t.receive()
    info = t.migrate(m, d)              # to the same host, where t0 is in use
    t.same(info["status"], "failed", "status")
    t.same(d.wait(), 1, "exit status of the destination")
    for text in (info["error-desc"], d.stderr()):
        t.check("host-name" in text and "t0" in text and "busy" in text, "the error: " + text)
    answers()
    m.send("q")
    m.expect("^PASS vio")


@t.test
def tap_that_is_removed_is_a_cable_pulled_out():
    m = guest("tap,name=t0")
    answers((100,))
    ip("link", "del", "t0")
    t.wait_until(lambda: "the network has gone away" in m.stderr(), "ferry to notice")
    r = report(m)
    m.send("q")
    m.expect("^PASS vio")
    t.check(r["echo"] >= 1, "counted: %r" % r)


def taps_on_the_bridge(*names, how=()):
    for name in names:
        if exists(name):                # of a test that failed
            ip("link", "del", name)
        ip("tuntap", "add", name, "mode", "tap", "vnet_hdr", *how)
        ip("link", "set", name, "up", "master", "br0")


def remove_taps(*names, how=()):
    for name in names:
        ip("tuntap", "del", name, "mode", "tap", *how)


def cross(source, tap):
    """Move to a new machine on @tap: the machine, and its blackout in seconds."""
    destination = t.receive(None, "--net", "tap,name=" + tap)
    source.qmp.run("migrate", uri=destination.uri)
    done = source.qmp.event("MIGRATION", match=lambda d: d["status"] in ("completed", "failed"))
    t.same(done["data"]["status"], "completed", "status")
    return destination, done["data"]["x-info"]["x-ferry"]["blackout-ns"] / 1e9


@t.test
def stream_goes_on_while_the_guest_crosses():
    """The source stays and so does its tap, so the bridge goes on sending there until it has learned."""
    taps_on_the_bridge("t0", "t1")
    listener = Listener()
    source = guest("tap,name=t0,mac=" + MAC, "irq=1", "--stay")
    stream = Stream(GUEST_IP)
    stream.wait_for_more(20)
    t.same(bridge_port(MAC), "t0", "port of the guest's address before")
    listener.wait_for(Listener.ARP, 1)
    m, blackout = cross(source, "t1")
    listener.wait_for(Listener.RARP, 5)
    listener.wait_for(Listener.ARP, 1)
    stream.wait_for_more(20)
    t.same(bridge_port(MAC), "t1", "port of the guest's address after")
    lost = stream.stop()
    listener.close()
    t.same(stream.twice, 0, "datagrams answered twice")
    print("# %d sent, blackout %.0f ms" % (len(stream.sent), blackout * 1e3))
    t.same(lost, [], "lost datagrams")
    r = report(m)
    t.same((r["again"], r["announced"]), (0, 1), "datagrams seen again, announcements")
    t.same(source.qmp.run("query-status")["status"], "postmigrate", "status of the source")
    source.kill()
    finish(m)
    remove_taps("t0", "t1")


@t.test
def frames_that_come_too_late_follow_the_guest():
    """While the destination has not heard of the stop, bridges lead them to where the guest was."""
    taps_on_the_bridge("t0", "t1")
    m = guest("tap,name=t0,mac=" + MAC)
    stream = Stream(GUEST_IP)
    stream.wait_for_more(20)
    destination = t.receive(None, "--net", "tap,name=t1")
    proxy = Proxy(destination.uri, "STOPPED", hold)
    start(m, proxy.uri)
    proxy.wait()
    sent = len(stream.sent)
    t.wait_until(lambda: len(stream.sent) >= sent + 20, "frames to be sent")
    t.same(bridge_port(MAC), "t0", "port of the guest's address")
    proxy.release()
    report = end(m)
    t.same(report["status"], "completed", "status")
    t.check(report["x-ferry"]["backlog"] >= 20 * (42 + 64), "bytes that followed the guest: %r" % report["x-ferry"])
    stream.wait_for_more(20)
    lost = stream.stop()
    t.same((lost, stream.twice), ([], 0), "datagrams lost, and answered twice")
    finish(destination)
    remove_taps("t0", "t1")


@t.test
def frames_come_back_when_the_move_fails_after_the_stop():
    """They are led to the destination while the guest is stopped, and to the source when it runs there again."""
    taps_on_the_bridge("t0", "t1")
    m = guest("tap,name=t0,mac=" + MAC)
    stream = Stream(GUEST_IP)
    stream.wait_for_more(20)
    t.same(bridge_port(MAC), "t0", "port of the guest's address before")
    listener = Listener()
    proxy = Proxy(t.receive(None, "--net", "tap,name=t1").uri, "LOADED", hold)
    start(m, proxy.uri)
    proxy.wait()
    listener.wait_for(Listener.RARP, 1)
    t.same(bridge_port(MAC), "t1", "port of the guest's address while it is expected there")
    proxy.cut()
    proxy.release()
    t.same(end(m)["status"], "failed", "status")
    listener.wait_for(Listener.RARP, 5)
    stream.wait_for_more(20)
    t.same(bridge_port(MAC), "t0", "port of the guest's address afterwards")
    lost = stream.stop()
    listener.close()
    t.same(stream.twice, 0, "datagrams answered twice")
    print("# %d sent, %d lost" % (len(stream.sent), len(lost)))
    finish(m, said=True)
    remove_taps("t0", "t1")


def by_pair(machine):
    """What has gone through each pair of queues: (received, sent)."""
    machine.send("s")
    return [tuple(int(n) for n in machine.expect(r"^vio pair %d rx=(\d+) tx=(\d+)\s" % k).groups()) for k in (0, 1)]


@t.test
def two_pairs_of_queues_are_used_before_and_after_a_move():
    """The host sends what belongs to a connection to the queue from which the guest's part of it last came."""
    taps_on_the_bridge("t0", "t1", how=("multi_queue",))
    m = guest("tap,name=t0,queues=2,mac=" + MAC, "pairs=2")
    streams = [PortStream(GUEST_IP, odd) for odd in (0, 1)]

    def both_are_used():
        before = by_pair(m)
        for stream in streams:
            stream.wait_for_more(20)
        grown = [(r - rx, s - tx) for (rx, tx), (r, s) in zip(before, by_pair(m))]
        t.check(min(n for pair in grown for n in pair) >= 15, "frames received and sent by each pair: %r" % grown)
        return grown

    print("# received and sent by each pair before: %r" % both_are_used())
    m, _ = cross(m, "t1")
    for stream in streams:              # the first ones find their queue
        stream.wait_for_more(1)
    print("# and after: %r" % both_are_used())
    for stream in streams:
        stream.stop()
        t.same(stream.twice, 0, "datagrams answered twice")
    finish(m)
    remove_taps("t0", "t1", how=("multi_queue",))


@t.test
def there_and_back_and_reset():
    taps_on_the_bridge("t0", "t1")
    m = guest("tap,name=t0,mac=" + MAC, "csum=1 mrg=500")
    for tap in ("t1", "t0", "t1"):
        source = m
        m, _ = cross(source, tap)
        t.same(source.wait(), 0, "exit status of the source")
        t.same(source.stderr(), "", "stderr of the source")
        answers()
    t.wait_until(lambda: report(m)["announced"] == 3, "the guest's announcements")
    m.qmp.run("system_reset")
    m.expect("^vio ready.*\n")
    answers()
    t.same(report(m)["announced"], 0, "announcements after a reset")
    finish(m)
    remove_taps("t0", "t1")


def uplink():
    """What passt looks for on a host: an interface with an address, and a route to all."""
    ip("link", "add", "uplink", "type", "veth", "peer", "name", "far")
    ip("link", "set", "far", "up")
    ip("link", "set", "uplink", "up")
    ip("addr", "add", "10.1.0.1/24", "dev", "uplink")
    ip("route", "add", "default", "via", "10.1.0.254", "dev", "uplink")


def exchange(m, server, text):
    """The guest asks its gateway, which is this host's loopback, over TCP, and shows what it is told."""
    linuxtest.background(m, "echo %s | nc -w %d 10.1.0.254 %d >/got" % (text, t.PATIENCE, server.getsockname()[1]))
    connection, _ = server.accept()
    with connection:
        connection.settimeout(t.PATIENCE)
        t.same(connection.makefile().readline().strip(), text, "what the guest has sent")
        connection.sendall(text[::-1].encode())
    t.wait_until(lambda: linuxtest.shell(m, "cat /got") == text[::-1], "the answer to reach the guest")


@t.test
def stock_Linux_on_the_network_of_a_user_moves():
    """Each host has a passt of its own: the guest keeps its address, and reaches the server from the next one, too."""
    folder = os.path.join(t.scratch, "linux")
    skip = linuxtest.pack(folder) or (None if shutil.which("passt") else "passt is not installed")
    if skip:
        return skip
    uplink()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(t.PATIENCE)
        m = t.Machine("run", "--kernel", folder + "/vmlinuz", "--initrd", folder + "/initramfs", "--cmdline",
                      linuxtest.kernel_words(), "--memory", "160", "--net", "user")
        linuxtest.ready(m)
        linuxtest.shell(m, "printf '#!/bin/sh\\n[ $1 != bound ] || { ip addr add $ip/${mask:-24} dev eth0; "
                        "ip route add default via ${router%% *}; }\\n' >/lease; chmod 755 /lease; ip link set eth0 up")
        linuxtest.shell(m, "udhcpc -q -n -f -i eth0 -s /lease >/dhcp.log 2>&1 || { cat /dhcp.log; false; }")
        t.check("10.1.0.1/24" in linuxtest.shell(m, "ip addr show eth0"), "the guest has no address by DHCP")
        exchange(m, server, "before")
        for text in ("there", "back"):
            source, m = m, t.receive()
            source.qmp.run("migrate", uri=m.uri)
            t.same(source.wait(), 0, "exit status of the source; it said: " + source.stderr())
            exchange(m, server, text)
        linuxtest.check_nothing_unexpected(m)
        m.send("poweroff -f\n")              # passt has said things on stderr, so not by power_off()
        t.same(m.wait(), 0, "exit status after poweroff")
    ip("link", "del", "uplink")
    return None


def passts():
    return subprocess.run(["pgrep", "^passt"], stdout=subprocess.DEVNULL).returncode == 0


@t.test
def network_of_a_user():
    """passt in between: the guest sends to its gateway, which is this host's loopback."""
    if not shutil.which("passt"):
        return "passt is not installed"
    uplink()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind(("127.0.0.1", 9))
        s.settimeout(t.PATIENCE)
        m = t.run("vio seconds=6000 ip=10.1.0.1 peer=10.1.0.254 send=100", "--net", "user")
        try:
            m.expect("^vio ready.*\n")
        except (t.Failure, OSError):
            if "Couldn't create user namespace" not in m.stderr():
                raise
            t.same(m.wait(), 1, "exit status")
            t.check("host-socket" in m.stderr(), "the error: " + m.stderr())
            ip("link", "del", "uplink")
            return "passt finds no user namespaces here (a chroot, as in the lab, has none)"
        numbers = []
        while len(numbers) < 20:
            data, address = s.recvfrom(2048)
            numbers.append(int.from_bytes(data[:4], "big"))
        t.check(numbers == sorted(set(numbers)), "not in order: %r" % numbers)
        before = report(m)["rx"]
        s.sendto(b"answer", address)
        t.wait_until(lambda: report(m)["rx"] > before, "the answer to reach the guest")
        t.check(passts(), "no passt runs")
        m.kill()
        t.wait_until(lambda: not passts(), "passt to end")
    ip("link", "del", "uplink")


missing = None if t.kvm_missing() else enter_namespace()
if missing:
    print("1..0 # SKIP " + missing)
    sys.exit(0)
t.main()
