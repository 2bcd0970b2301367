#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Between two hosts, which are network namespaces joined by a link of 1 Gbit/s or 100 Mbit/s: the tests of faults.t
and of the downtime limit again, and a link that goes down in each phase.

Every test is run at 100 Mbit/s; some of them, and with FERRY_TEST_FULL=1 all, at 1 Gbit/s too. That takes the link
down for 5 and 30 s in every phase as well; else it is 1 s in every phase, and 5 s in one."""

import json
import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import ferrytest as t
from checks import (arrived, at_home, dirty, end, given_up, held, named_error, receiver, stands_still, start, verify)
from netns import Pair, missing, neighbour
from nettest import MAC, Stream, TcpStream
from wire import DESTINATION, SOURCE, Proxy, hold

FULL = os.environ.get("FERRY_TEST_FULL", "0") != "0"
converge, faults = t.script("converge"), t.script("faults")


# --- the downtime limit -----------------------------------------------------------------------------------

def downtime_limit_over_the_link():
    report = converge.downtime(200, guest="fill=16 ws=8 rate=4", memory="32")
    t.check(report["ram"]["dirty-sync-count"] > 2, "the guest was stopped after the first round")
    print("# blackout %.1f ms, %.1f MiB/s while sending" % (report["x-ferry"]["blackout-ns"] / 1e6, throughput(report)))


def throughput(report):
    return report["ram"]["transferred"] / (report["x-ferry"]["send-ns"] / 1e9) / (1 << 20)


# --- the link goes down -----------------------------------------------------------------------------------

# Records are held where they are sent, so that the link lies before them.
PHASES = [("HELLO", 1, DESTINATION), ("HELLO", 2, SOURCE), ("MACHINE", 1, SOURCE), ("ACCEPT", 1, DESTINATION),
          ("RAM", 2, SOURCE), ("STOPPED", 1, SOURCE), ("STATE", 1, SOURCE), ("LOADED", 1, DESTINATION),
          ("COMMIT", 1, SOURCE), ("RUNNING", 1, DESTINATION)]
STOPPED = [name for name, _, _ in PHASES].index("STOPPED")
SEVERAL = dict(max_bandwidth=24 << 20, x_verify=True)       # so little at a time that RAM goes in several records


def link_down(seconds, phases, deadline=0):
    """In each phase once, for @seconds; the other end of the cable each time. @deadline: of each step in ms, 0: those
    of ferry."""
    saved = os.path.join(t.scratch, "saved")
    source = dirty()
    t.same(t.ferry("save", source.control, saved)[0], 0, "status of ferry save")
    source.kill()
    source = None
    for i, (name, nth, side) in enumerate(phases):
        if not source:
            source = arrived(t.Machine("restore", saved))
            source.qmp.events.clear()           # which tell of its own arrival
            verify(source)                      # which connects to its serial port, for good
            before = held(source)
        destination = receiver()
        destination.qmp.run("migrate-set-parameters", x_deadline=deadline)
        proxy = Proxy(destination.uri, name, hold, nth, side=side)
        began = time.monotonic()
        start(source, proxy.uri, x_deadline=deadline, **SEVERAL)
        proxy.wait()
        with t.place.down((SOURCE, DESTINATION)[i % 2]):
            proxy.release()
            time.sleep(seconds)                 # the fault itself
        report = end(source)
        how = outcome(source, before, report, destination, proxy)
        print("# down for %d s in %s: %s after %.1f s" % (seconds, name, how, time.monotonic() - began), flush=True)
        if seconds <= 1:
            t.same(how, "went on", "the migration, its link down in %s" % name)
        if how.startswith("went on"):
            source = None
    if source:
        faults.arrives(source)


def outcome(source, before, report, destination, proxy):
    """Exactly one side has the guest, or a person has to say which."""
    if report["status"] == "completed":
        t.same(source.wait(), 0, "exit status of the source")
        verify(destination)
        destination.kill()
        return "went on"
    if report["x-ferry"]["handed-over"]:
        faults.handed_over(source, report)
        if settled(destination) == "running":
            stands_still(source, lambda: verify(destination))
            destination.kill()
            source.kill()
            return "went on, handed over"
        proxy.kill()
        given_up(destination, True)
        source.qmp.run("cont", force=True)
    else:
        proxy.kill()
        named_error(report, machine=source)
        # One that has heard no HELLO in time took the source for a stranger, and waits on.
        given_up(destination, any(r.name == "HELLO" and r.side == SOURCE for r in proxy.seen) and
                 "waiting for another" not in destination.stderr())
        destination.kill()
    at_home(source, before)
    return "handed over, ended" if report["x-ferry"]["handed-over"] else "ended"


def settled(destination):
    """What a destination has become that may still wait for a word."""
    def look():
        if destination.ended():
            return "ended"
        try:
            return destination.qmp.run("query-status")["status"] == "running" and "running"
        except (t.Failure, OSError):
            return None
    return t.wait_until(look, "the destination to run the guest or to end")


def link_down_for_1_s_in_every_phase():
    # An emulated host may take as long as the shortest deadline for what a real one does at once.
    link_down(1, PHASES, deadline=0 if t.SLOWNESS == 1 else 25000)


def link_down_for_5_s():
    link_down(5, PHASES if FULL else [p for p in PHASES if p[0] == "COMMIT"])


def link_down_for_30_s_while_the_guest_runs():
    link_down(30, PHASES[:STOPPED])


def link_down_for_30_s_once_it_is_stopped():
    link_down(30, PHASES[STOPPED:])


# --- what others see ----------------------------------------------------------------------------------------

GUEST_IP = "10.0.0.2"
LIMIT = 0.100                           # s without an answer
OFTEN = 0.004                           # s between questions; more of them keep an emulated processor from all else


def an_external_client_hardly_notices():
    """A third host asks over TCP and by datagrams, every 4 ms each, a guest that dirties 50 MiB/s.

    Where nothing else disturbs it, the longest time without an answer is below 100 ms. An emulated host is allowed
    that times FERRY_TEST_SLOWNESS: such a one is silent for hundreds of ms without any move, as is printed beside."""
    client = neighbour(t.place)
    source = t.run("vio seconds=6000 ip=%s ws=16 rate=50" % GUEST_IP, "--net", "tap,name=t0,mac=" + MAC, memory="64")
    source.expect("^vio ready.*\n")
    with client:
        streams = {"UDP": Stream(GUEST_IP, OFTEN), "TCP": TcpStream(GUEST_IP, OFTEN)}
    destination = t.receive()
    destination.qmp.run("query-status")
    rate = dirtied(source, lambda: more(streams, 250))
    asked = time.monotonic()
    start(source, destination.uri, downtime_limit=30)
    report = end(source)
    t.same((report["status"], report.get("error-desc")), ("completed", None), "the migration")
    more(streams, 50)
    lost = {name: stream.stop() for name, stream in streams.items()}
    blackout = report["x-ferry"]["blackout-ns"] / 1e9
    print("# blackout %.0f ms; the guest dirtied %.0f MiB/s; %.1f MiB/s while sending, %d rounds" %
          (blackout * 1e3, rate, throughput(report), report["ram"]["dirty-sync-count"]))
    for name, s in streams.items():
        print("# %s: longest time without an answer %.0f ms, before the move %.0f ms; lost %d of %d, before the move %d" %
              (name, s.gap(asked) * 1e3, s.gap(until=asked) * 1e3, len(lost[name]), len(s.sent),
               sum(s.sent[n] < asked for n in lost[name])))
    print("# %d bytes of frames followed the guest" % report["x-ferry"]["backlog"])
    print("# frames that the taps had no room for: %d at the source, %d at the destination" %
          tuple(overrun(host) for host in t.place.hosts.values()))
    for name, s in streams.items():
        t.same(s.twice, 0, "answers that came twice by " + name)
        t.check(s.gap(asked) >= blackout - 0.005, "the guest answered while nobody ran it")
        t.check(s.gap(asked) < LIMIT * t.SLOWNESS, "no answer by %s for %.0f ms" % (name, s.gap(asked) * 1e3))
    t.same((lost["TCP"], streams["TCP"].problem), ([], None), "what the connection lost")
    destination.send("q")
    destination.expect("^PASS vio")


def overrun(host):
    """Frames that @host has dropped before the guest's tap."""
    return json.loads(host.run("ip -s -j link show t0"))[0]["stats64"]["tx"]["dropped"]


def more(streams, n):
    for stream in streams.values():
        stream.wait_for_more(n)


def dirtied(machine, work):
    """MiB/s, by the guest's own clock and count, while work() is done."""
    looks = []
    for meanwhile in (work, lambda: None):
        machine.send("s")
        looks.append([int(n) for n in machine.expect(r"^vio work ns=(\d+) rounds=\d+ pages=(\d+)\s").groups()])
        machine.expect(r"^vio net ns=.*\n")
        meanwhile()
    (ns, pages), (later, more) = looks
    return (more - pages) / 256 / ((later - ns) / 1e9)


# --- which, and where ----------------------------------------------------------------------------------------

AT_BOTH = [downtime_limit_over_the_link]
AT_ONE = [converge.downtime_limit_under_a_bandwidth_cap, faults.nobody_listens_or_the_name_does_not_resolve,
          faults.the_port_is_filtered, faults.destination_killed_at_every_step, faults.source_killed_at_every_step,
          faults.cut_after_every_record, faults.stalled_at_every_record, faults.the_answer_to_COMMIT_is_lost,
          faults.destination_without_memory_descriptors_kvm_or_disk, link_down_for_1_s_in_every_phase,
          link_down_for_5_s]
IF_FULL = [link_down_for_30_s_while_the_guest_runs, link_down_for_30_s_once_it_is_stopped,
           faults.source_killed_once_COMMIT_is_sent, faults.cut_inside_records, faults.COMMIT_is_lost,
           faults.the_disk_comes_back_after_a_failure_in_the_last_step]


def across(pair, rate, function):
    def run():
        t.place = pair
        return function()
    run.__name__ = "at_%s_%s" % (rate, function.__name__)
    t.test(run)


def plan():
    pairs = {rate: Pair(rate) for rate in ("100mbit", "1gbit")}
    across(pairs["1gbit"], "1gbit", an_external_client_hardly_notices)
    for function in AT_BOTH + AT_ONE + (IF_FULL if FULL else []):
        for rate in ("100mbit", "1gbit") if FULL or function in AT_BOTH else ("100mbit",):
            across(pairs[rate], rate, function)


reason = None if t.kvm_missing() else missing()
if reason:
    print("1..0 # SKIP " + reason)
    sys.exit(0)
if not t.kvm_missing():
    plan()
t.main()
