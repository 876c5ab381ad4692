#!/usr/bin/env python3
"""Names of exit clients: the PeerAPI as official clients use it, and port 53 by UDP and TCP to whatever address, answered
through the proxy with the leak oracle watching. docs/ACCEPTANCE.md, tests 18 and 19; dig and dnsperf are real."""
import os
import random
import re
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lib import official, proxies  # noqa: E402
from lib.case import Skip, case, main  # noqa: E402
from lib.exitbed import ExitBed  # noqa: E402
from lib.inet import LONG_TXT, SINK, NoEdns, Unbound  # noqa: E402
from lib.node import Node  # noqa: E402
from lib.proc import expect, wait_until  # noqa: E402

MAGIC = "100.100.100.100"
NOBODY = "8.8.8.8"  # no host of the test internet: what answers there is our node
PRIVATE = "192.168.77.1"


def write_conf(b, text):
    path = os.path.join(b.dir, "dns.conf")
    with open(path + ".new", "w", encoding="ascii") as f:
        f.write(text)
    os.rename(path + ".new", path)
    return path


def dig(b, *args, server=NOBODY, timeout=8):
    """What dig prints, from the TUN client's kernel."""
    if not shutil.which("dig"):
        raise Skip("dig is not installed")
    argv = ["dig", f"@{server}", "+tries=1", f"+time={timeout}", "+nocookie", *args]
    r = b.need_tun().ns.run(*argv, check=False, timeout=60)
    return r.stdout + r.stderr


def status_of(text):
    found = re.search(r"status: (\w+)", text)
    return found.group(1) if found else f"no answer: {text[-300:]}"


def short(b, *args, **kw):
    return dig(b, "+short", *args, **kw).split()


class Through:
    """The exit node behind microsocks for the length of a case, under the oracle."""

    def __init__(self, b, *flags, dns=True, **kw):
        self.b, self.flags, self.dns, self.kw = b, flags, dns, kw

    def __enter__(self):
        b = self.b
        self.proxy = proxies.Microsocks(b.sup, b.net.proxy, b.dir)
        b.exit(*self.flags, proxy=self.proxy, dns=self.dns, **self.kw)
        self.oracle = b.oracle(self.proxy)
        self.oracle.__enter__()
        return self.proxy

    def __exit__(self, *error):
        try:
            self.oracle.__exit__(*error)
        finally:
            self.proxy.stop()


def expect_all_kinds(b, server, sources):
    """A, AAAA, no such name, refused, a long text and a truncated one, each as it should be from this server's address."""
    inet, asked = b.net.inet, len(b.doh.asked())
    for proto in ("+notcp", "+tcp"):
        expect(short(b, proto, "web.example", "A", server=server) == [inet.web4], f"A {proto} from {server}")
        expect(short(b, proto, "web.example", "AAAA", server=server) == [inet.web6], f"AAAA {proto} from {server}")
        text = dig(b, proto, "nowhere.example", "A", server=server)
        expect(status_of(text) == "NXDOMAIN" and "SOA" in text, f"NXDOMAIN {proto} from {server}: {text}")
        text = dig(b, proto, "elsewhere.refused", "A", server=server)
        expect(status_of(text) == "REFUSED", f"REFUSED {proto} from {server}: {text}")
    text = dig(b, "+notcp", "+ignore", "+bufsize=1232", "long.example", "TXT", server=server)
    expect("flags: qr tc" in text and "ANSWER: 0" in text, f"truncated by UDP: {text}")
    text = dig(b, "long.example", "TXT", server=server)  # dig goes on by TCP by itself
    flags = re.search(r"flags:([^;]*)", text).group(1)
    expect(all(t in text for t in LONG_TXT) and "tc" not in flags, f"4 KB by TCP: {text[:400]}")
    new = b.doh.asked()[asked:]
    expect(new and {q[0] for q in new} <= sources, f"the upstream was asked from {sorted({q[0] for q in new})}")


@case("dig to 8.8.8.8, UDP and TCP: A, AAAA, NXDOMAIN, REFUSED, TC, 4 KB TXT, through the proxy")
def raw_port_53(b):
    with Through(b) as p:
        expect_all_kinds(b, NOBODY, p.sources())
        expect(short(b, "web.example", "A", server="2001:4860:4860::8888") == [b.net.inet.web4], "to an IPv6 resolver")
    s = b.egress()["DNS"]
    expect(s["UDPQueries"] > 0 and s["TCPQueries"] > 0 and s["CacheHits"] > 0 and s["Healthy"], f"status: {s}")


@case("dig to a private resolver, as clients keep it from home: answered, never dialed; its other ports stay refused")
def private_resolver(b):
    with Through(b) as p:
        asked = len(b.doh.asked())
        for proto in ("+notcp", "+tcp"):
            expect(short(b, proto, "four.example", "A", server=PRIVATE) == [b.net.inet.web4], f"{proto} from {PRIVATE}")
        expect({q[0] for q in b.doh.asked()[asked:]} <= p.sources(), "asked from elsewhere")
        b.expect_refused(PRIVATE, 80)


@case("upstream tcp://: the same by DNS over TCP through the proxy")
def tcp_upstream(b):
    with Through(b, dns=b.doh.tcp_url) as p:
        expect_all_kinds(b, NOBODY, p.sources())


@case("upstream udp://: where a proxy has no UDP by TCP; in host mode by UDP, and by TCP what is too long")
def udp_upstream(b):
    with Through(b, dns=b.doh.udp_url) as p:
        expect_all_kinds(b, NOBODY, p.sources())
    b.exit("--exit-egress", "host", dns=b.doh.udp_url)
    with b.oracle(allow=[f"(host {b.net.inet.dns4} and port 53)"]):
        expect_all_kinds(b, NOBODY, {b.net.node.ip4})
    expect(b.egress()["DNS"]["Healthy"], "not healthy")


@case("upstreams in order: a dead first one is passed over, and remembered")
def second_upstream(b):
    with Through(b, dns=f"tcp://{b.net.inet.web4}:9999,{b.doh.url}"):
        expect(short(b, "web.example", "A") == [b.net.inet.web4], "no answer from the second")
        before = b.egress()["DNS"]["Asked"]
        expect(short(b, "four.example", "A") == [b.net.inet.web4], "no answer from the second, later")
        expect(b.egress()["DNS"]["Asked"] == before + 1, "the dead one was asked again at once")


@case("exit_dns changes while clients ask: the new one is asked from then on, nobody goes without an answer")
def other_upstream(b):
    with Through(b, dns=f"tcp://{b.net.inet.web4}:{SINK}"):  # it takes questions and says nothing
        one = subprocess.Popen(b.need_tun().ns.wrap(["dig", f"@{NOBODY}", "+tries=1", "+time=15", "one.many.example"]),
                               stdout=subprocess.PIPE, text=True)
        wait_until(lambda: b.egress()["DNS"]["InFlight"] == 1, "a question is under way")
        b.node.cli("set", "--exit-dns", b.doh.tcp_url)
        expect(b.egress()["DNS"]["Upstreams"] == b.doh.tcp_url, "told by the status")
        expect(short(b, "two.many.example") == [b.net.inet.web4], "asked of the new one")
        text = one.communicate(timeout=30)[0]
        expect(status_of(text) == "SERVFAIL", f"the one under way ends with the one it was put to: {text}")
        r = b.node.try_cli("set", "--exit-dns", "tcp://name.example")
        expect(r.returncode == 1 and "exit_dns" in r.stderr, f"a name: {r.stderr}")
        expect(short(b, "three.many.example") == [b.net.inet.web4], "and nothing has changed")
        b.node.cli("set", "--exit-dns-aaaa", "false")
        expect(status_of(dig(b, "web.example", "AAAA")) == "NOERROR" and not short(b, "web.example", "AAAA"), "AAAA")
        b.node.cli("set", "--exit-dns-aaaa", "auto")
        expect(short(b, "web.example", "AAAA") == [b.net.inet.web6], "AAAA, automatic again")


@case("upstreams from before EDNS, by TCP and UDP: asked once more without, then without from the first")
def old_upstream(b):
    old = NoEdns(b.net.inet, b.net.inet.web4)
    with Through(b, dns=f"tcp://{b.net.inet.web4}"):
        for name in ("web.example", "four.example", "brief.example"):
            expect(short(b, name, "A") == [b.net.inet.web4], f"{name} by TCP")
        expect(status_of(dig(b, "nowhere.example")) == "NXDOMAIN", "NXDOMAIN by TCP")
    expect((old.refused, old.answered) == (1, 4), f"by TCP: {old.refused} refused, {old.answered} answered")
    b.exit("--exit-egress", "host", dns=f"udp://{b.net.inet.web4}")
    for name in ("web.example", "four.example", "brief.example"):
        expect(short(b, name, "A") == [b.net.inet.web4], f"{name} by UDP")
    expect((old.refused, old.answered) == (2, 7), f"by UDP: {old.refused} refused, {old.answered} answered")


@case("HTTPS records offer no HTTP/3 where UDP has no way; AAAA left out when told so; IDs and spelling are the client's")
def adjusted(b):
    with Through(b):
        text = " ".join(short(b, "h3.example", "TYPE65"))
        got = dig(b, "h3.example", "HTTPS")
        expect("h2" in got and "h3," not in got and "ipv4hint" in got and "ipv6hint" in got, f"HTTPS: {got} {text}")
        expect("WeB.ExAmPlE." in dig(b, "WeB.ExAmPlE", "A"), "the spelling was changed")
        expect("WEB.example." in dig(b, "WEB.example", "A"), "the cache changed the spelling")
    with Through(b, "--exit-proxy-udp"):  # asked for, but the proxy has none
        wait_until(lambda: b.egress()["UDP"].startswith("off"), "the proxy refuses UDP")
        got = dig(b, "h3.example", "HTTPS")
        expect("h2" in got and "h3," not in got, f"HTTPS: {got}")
    with Through(b, "--exit-dns-aaaa", "false"):
        text = dig(b, "web.example", "AAAA")
        expect(status_of(text) == "NOERROR" and "ANSWER: 0" in text, f"AAAA: {text}")
        expect(short(b, "web.example", "A") == [b.net.inet.web4], "A")
        expect(status_of(dig(b, "nowhere.example", "AAAA")) == "NXDOMAIN", "NXDOMAIN must stay")
        got = dig(b, "h3.example", "HTTPS")
        expect("ipv4hint" in got and "ipv6hint" not in got, f"HTTPS: {got}")


@case("off: port 53 is refused at once, by UDP and TCP")
def off(b):
    b.exit("--exit-egress", "off")
    with b.oracle():
        text = dig(b, "web.example", "A", timeout=5)
        expect("refused" in text or "no servers" in text, f"UDP: {text}")
        b.expect_refused(NOBODY, 53)


@case("IPv6 addresses are told where IPv6 has a way: by the rules for this client, as they are now, and by the host's routes")
def addresses_that_lead_somewhere(b):
    p = proxies.Microsocks(b.sup, b.net.proxy, b.dir)
    conf = f"exit_dns = {b.doh.url}\nadvertise_exit_node = true\n[proxy p]\nurl = {p.url()}\n"
    inet = b.net.inet

    def told():
        hint = "ipv6hint" in dig(b, "h3.example", "HTTPS")
        return short(b, "web.example", "AAAA") == [inet.web6] and hint

    def settings(text):
        write_conf(b, conf + text)
        wait_until(lambda: b.egress()["Mode"] == "proxy", "the settings are in force")
    try:
        b.exit("--config", write_conf(b, conf), advertise=False, dns=False)
        with b.oracle(p):
            expect(told(), "without rules: not told")
            settings("[rule]\nfrom = tunclient\naddress = 0.0.0.0/0\nuse = p\n[rule]\nuse = p\n[rule]\nuse = block\n")
            expect(told(), "the second rule is for this client too: not told")
            settings("[rule]\nfrom = tunclient\naddress = ::/0\nuse = block\n[rule]\nuse = p\n")
            wait_until(lambda: not told(), "told of what a rule blocks")
            text = dig(b, "web.example", "AAAA")
            expect(status_of(text) == "NOERROR" and "ANSWER: 0" in text, f"AAAA: {text}")
            expect(short(b, "web.example", "A") == [inet.web4], "A")
            settings("[rule]\nfrom = client\naddress = ::/0\nuse = block\n[rule]\nuse = p\n")
            wait_until(told, "not told, though the rule is for another")
        b.exit("--exit-egress", "host")
        expect(told(), "host mode with a route: not told")
        b.net.node.ip("-6", "route", "del", "default")
        wait_until(lambda: not told(), "told though the host has no route for IPv6")
    finally:
        b.net.node.ip("-6", "route", "replace", "default", "via", b.net.node.gw6, "dev", b.net.node.dev)
        p.stop()


@case("host mode: port 53 is answered through the configured upstream, from the node's own address")
def host(b):
    b.exit("--exit-egress", "host")
    inet = b.net.inet
    with b.oracle(allow=[f"(host {inet.dns4} and tcp port 443)"]):
        asked = len(b.doh.asked())
        expect(short(b, "web.example", "A") == [inet.web4], "UDP")
        expect(short(b, "+tcp", "four.example", "A") == [inet.web4], "TCP")
        expect({q[0] for q in b.doh.asked()[asked:]} == {b.net.node.ip4}, "asked from elsewhere")


def dnsperf(b, server, rate, seconds, names):
    """dnsperf from the TUN client: (completed, lost, not NOERROR, text)."""
    path = os.path.join(b.dir, "queries")
    with open(path, "w", encoding="ascii") as f:
        f.writelines(f"{n} A\n" for n in names)
    r = b.need_tun().ns.run("dnsperf", "-s", server, "-d", path, "-Q", rate, "-l", seconds, "-c", 4, "-T", 1, "-t", 5, "-q", 200,
                            check=False, timeout=seconds + 60)
    count = lambda what: int((re.search(what + r":\s+(\d+)", r.stdout) or [0, 0])[1])  # noqa: E731
    good = int((re.search(r"NOERROR (\d+)", r.stdout) or [0, 0])[1])
    return count("Queries completed"), count("Queries lost"), count("Queries completed") - good, r.stdout


def cost(b):
    """(CPU seconds, resident MB) of the exit node so far."""
    with open(f"/proc/{b.node.proc.pid}/stat", encoding="ascii") as f:
        fields = f.read().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), int(fields[21]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def per_second(b, server, what, losable=0.0):
    if not shutil.which("dnsperf"):
        raise Skip("dnsperf is not installed")
    rate, seconds = 1000, 4
    with Through(b):
        names = [f"n{i}.many.example" for i in range(700)] + ["web.example", "four.example", "brief.example"] * 100
        cpu, _ = cost(b)
        done, lost, bad, text = dnsperf(b, server, rate, seconds, names)
        cpu, rss = cost(b)[0] - cpu, cost(b)[1]
        # How many there were a second is for people to read: a busy machine makes fewer.
        expect(done > 0 and lost <= done * losable and bad == 0, f"{what}, {lost} lost: {text[-1500:]}")
        s = b.egress()["DNS"]
        expect(s["Failed"] == 0 and s["OverLimit"] == 0, f"status: {s}")
        latency = re.search(r"Average Latency \(s\):\s+([\d.]+)", text)
        return (f"{done / seconds:.0f}/s, {lost} lost, {float(latency[1]) * 1000:.1f} ms, {s['CacheHits']} of {s['Queries']} from the cache, "
                f"{cpu / max(done, 1) * 1e6:.0f} us of CPU each, {rss:.1f} MB")


@case("1,000 queries a second to 8.8.8.8: none failed", seconds=120)
def thousand_raw(b):
    # Datagrams overflow a socket's buffer when the machine is busy elsewhere, and dnsperf sends nothing twice.
    return per_second(b, NOBODY, "to 8.8.8.8", losable=0.5)


@case("1,000 queries a second by the official client, which asks our PeerAPI: none lost, none failed", seconds=120)
def thousand_peerapi(b):
    return per_second(b, MAGIC, "by the PeerAPI")


@case("the official client by its own resolver: all kinds of answers, and what a browser asks at once")
def by_magic(b):
    with Through(b) as p:
        inet, asked = b.net.inet, len(b.doh.asked())
        expect(short(b, "web.example", "A", server=MAGIC) == [inet.web4], "A")
        expect(short(b, "web.example", "AAAA", server=MAGIC) == [inet.web6], "AAAA")
        expect(status_of(dig(b, "nowhere.example", "A", server=MAGIC)) == "NXDOMAIN", "NXDOMAIN")
        text = dig(b, "+tcp", "long.example", "TXT", server=MAGIC)
        expect(all(t in text for t in LONG_TXT), f"4 KB TXT: {text[:300]}")
        # One process, three questions at once.
        text = dig(b, "h3.example", "A", f"@{MAGIC}", "h3.example", "AAAA", f"@{MAGIC}", "h3.example", "HTTPS", server=MAGIC)
        expect(text.count("status: NOERROR") == 3, f"A, AAAA and HTTPS: {text}")
        expect({q[0] for q in b.doh.asked()[asked:]} <= p.sources(), "asked from elsewhere")


def ask_silent(b, sock, count):
    """Questions of the TUN client for names that nobody answers; how many questions the exit node has under way then."""
    for i in range(count):
        name = f"n{random.randrange(1 << 40):x}"
        sock.sendto(struct.pack(">6H", i, 0x100, 1, 0, 0, 0) + bytes([len(name)]) + name.encode() + b"\6silent\0\0\1\0\1", (NOBODY, 53))
        if i % 8 == 0:
            time.sleep(0.01)  # the relay holds 32 packets
    return b.egress()["DNS"]["InFlight"]


@case("one client's names that are never answered, more than the resolver's connection takes: another's answers are as soon as before")
def silent_names(b):
    b.need_tun()
    few = Unbound(b.sup, b.net.inet, b.dir, port=8443, streams=100, like=b.doh)

    def timed(name):
        began = time.monotonic()
        text = b.client.cli("dns", "query", name)
        expect(b.net.inet.web4 in text, f"{name}: {text}")
        return time.monotonic() - began
    with Through(b, dns=few.url):
        timed("warm.many.example")
        before = statistics.median(timed(f"before{i}.many.example") for i in range(5))
        sock = b.tun.ns.socket(socket.AF_INET, socket.SOCK_DGRAM)
        waiting = ask_silent(b, sock, 400)
        expect(waiting > 200, f"{waiting} under way: more than the connection takes")
        during = []
        for i in range(5):
            during.append(timed(f"during{i}.many.example"))
            waiting = ask_silent(b, sock, 80)
            expect(waiting > 120, f"{waiting} under way")
        sock.close()
        # Without turns some wait until those before them are given up, 5 s. A loaded machine makes a second.
        expect(max(during) < 2 * before + 1, f"{before * 1000:.0f} ms before, {[round(d * 1000) for d in during]} during")
        return f"{before * 1000:.0f} ms before, {statistics.median(during) * 1000:.0f} ms beside, {max(during) * 1000:.0f} at most"


@case("a proxy that is told names: what a client asked for by name is dialed by name")
def names_to_the_proxy(b):
    inet = b.net.inet
    with open(b.net.proxy.resolv, "w", encoding="ascii") as f:
        f.write(f"nameserver {inet.dns4}\n")
    with Through(b, "--exit-names") as p:
        b.connect(inet.web4, 80)[0].close()  # not asked for yet
        expect(short(b, "web.example", "A") == [inet.web4], "A")
        b.connect(inet.web4, 80)[0].close()
        wait_until(lambda: "web.example:80" in p.proc.text(), "the proxy is asked for the name")
        expect(f"{inet.web4}:80" in p.proc.text(), "an address of which nobody had asked the name was not dialed as such")
        expect(short(b, "four.example", "A") == [inet.web4], "A of another name")
        b.connect(inet.web4, 80)[0].close()  # two names for one address: neither
        wait_until(lambda: p.proc.text().count(f"{inet.web4}:80") == 2, "the proxy is asked for the address")


def peerapi(b):
    urls = wait_until(lambda: (b.client.peer("exit") or {}).get("PeerAPIURL"), "the client knows the PeerAPI")
    return urls[0]


def write_query(b, name, qtype=1):
    q = bytes.fromhex("000001000001000000000000")
    q += b"".join(bytes([len(x)]) + x.encode() for x in name.split(".")) + bytes([0, 0, qtype, 0, 1])
    path = os.path.join(b.dir, f"query-{name}")
    with open(path, "wb") as f:
        f.write(q)
    return path


@case("PeerAPI: several queries on one connection, and a filtered name is refused, on port 53 too")
def keep_alive(b):
    with Through(b):
        url, post = peerapi(b) + "/dns-query", ("-H", "Content-Type: application/dns-message", "--data-binary")
        args = []
        for name in ("web.example", "four.example", "nowhere.example"):
            args += ["--next"] * bool(args) + ["-sS", *post, "@" + write_query(b, name), "-o", os.path.join(b.dir, "out"),
                                               "-w", "%{http_code} %{num_connects}\n", "--socks5-hostname", b.client.SOCKS, url]
        r = b.client.ns.run("curl", *args)
        expect(r.stdout.split() == ["200", "1", "200", "0", "200", "0"], f"status and new connections: {r.stdout}")
        b.control.ask("dns", config={"Proxied": False, "ExitNodeFilteredSet": [".many.example", "web.example"]})
        wait_until(lambda: status_of(dig(b, "web.example", "A")) == "REFUSED", "the filtered set is in force")
        expect(status_of(dig(b, "a.many.example", "A")) == "REFUSED", "a name below")
        code, out, _ = b.client.curl(url, *post, "@" + write_query(b, "web.example"))
        expect(code == 0 and out[3] & 15 == 5, f"PeerAPI: {code} {out!r}")
        # MagicDNS is off in the tailnet now, and that does not matter.
        code, out, _ = b.client.curl(url, *post, "@" + write_query(b, "four.example"))
        expect(code == 0 and out[3] & 15 == 0 and out.endswith(bytes([45, 45, 45, 45])), f"MagicDNS off: {code} {out!r}")
        b.control.ask("dns", config={"Proxied": True, "Domains": ["tail.test"]})
        wait_until(lambda: status_of(dig(b, "web.example", "A")) == "NOERROR", "the filtered set is lifted")


@case("a peer that may not reach the internet: 403, and nothing on port 53", seconds=120)
def no_acl(b):
    b.stop_node()
    n = b.net
    control = official.TestControl(b.sup, n.ctl, port=8090, same_user=False)
    proxy = proxies.Microsocks(b.sup, n.proxy, b.dir)
    node = Node(b.sup, n.node, b.dir, "strict", control.url, env=dict(SSL_CERT_FILE=b.doh.cert),
                flags=["--advertise-exit-node", "--exit-dns", b.doh.url, "--exit-proxy", proxy.url()])
    client = official.Tailscaled(b.sup, n.peer(3), b.dir, "stranger")
    try:
        client.up(control.url)
        control.approve_exit("strict")
        urls = wait_until(lambda: (client.peer("strict") or {}).get("PeerAPIURL"), "the client knows the PeerAPI")
        post = ("-H", "Content-Type: application/dns-message", "--data-binary", "@" + write_query(b, "web.example"),
                "-w", "%{http_code}", "-o", os.path.join(b.dir, "out"))
        wait_until(lambda: client.curl(urls[0] + "/dns-query", *post)[1] == b"200", "it may, at first")
        own = [f"{ip}/32" for ip in node.status()["Self"]["TailscaleIPs"] if "." in ip]
        rules = [{"SrcIPs": ["*"], "DstPorts": [{"IP": ip, "Ports": {"First": 0, "Last": 65535}} for ip in own]}]
        control.ask("raw-map", node="strict", map={"PacketFilter": rules})
        wait_until(lambda: client.curl(urls[0] + "/dns-query", *post)[1] == b"403", "it may no more: 403")
    finally:
        node.stop()
        client.proc.stop()
        proxy.stop()
        control.proc.stop()


if __name__ == "__main__":
    main("dns", ExitBed, lambda: None if official.have("tailscaled", "testctl") else "tests/peers is not built (no Go)")
