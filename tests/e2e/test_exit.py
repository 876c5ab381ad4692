#!/usr/bin/env python3
"""The main job: an official client downloads through our exit node and a real proxy, byte-identical, by IPv4, IPv6 and by
name, with the leak oracle watching. docs/ACCEPTANCE.md, tests 1-6, and the policy's defaults."""
import base64
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lib import official, proxies  # noqa: E402
from lib.case import Skip, case, main  # noqa: E402
from lib.exitbed import ExitBed  # noqa: E402
from lib.inet import blob_sha256  # noqa: E402
from lib.proc import expect, wait_until  # noqa: E402

SIZE = 64 << 20
SECRET_USER, SECRET_PASSWORD = "uhrwerk77", "pa5s-vierzig"

WAYS = [("microsocks", proxies.Microsocks, None), ("microsocks with a password", proxies.Microsocks, "user7:pw7"),
        ("dante", proxies.Dante, None), ("tinyproxy", proxies.Tinyproxy, None),
        ("tinyproxy with a password", proxies.Tinyproxy, "user7:pw7"), ("squid", proxies.Squid, None),
        ("squid with a password", proxies.Squid, "user7:pw7")]


def through(b, name, cls, credentials):
    if not proxies.have(cls.program):
        raise Skip(f"{cls.program} is not installed")
    p = cls(b.sup, b.net.proxy, b.dir, credentials=credentials)
    try:
        b.exit(proxy=p)
        with b.oracle(p):
            digest, size, seconds = b.client.download(f"http://{b.net.inet.web4}/blob/{SIZE}")
            expect(size == SIZE and digest == blob_sha256(SIZE), f"{size} bytes, another checksum")
            expect(b.inet.web.seen[-1] in p.sources(), f"the web saw {b.inet.web.seen[-1]}")
            seen = b.expect_through(p, b.net.inet.web6)
            expect(seen == b.net.proxy.ip6, f"IPv6 destination: the web saw {seen}")
            asked = len(b.doh.asked())
            expect(b.fetch("http://web.example/ip") in p.sources(), "by name: another source")
            questions = b.doh.asked()[asked:]
            expect(questions, "the DoH service saw no question")
            expect({q[0] for q in questions} <= p.sources(), f"DNS came from {questions}")
        return f"{size / seconds / 1e6:.1f} MB/s"
    finally:
        p.stop()


for _name, _class, _credentials in WAYS:
    @case(f"64 MB, IPv6 and by name through {_name}", seconds=300)
    def through_proxy(b, name=_name, cls=_class, credentials=_credentials):
        return through(b, name, cls, credentials)


@case("an upload of 16 MB arrives whole")
def upload(b):
    p = proxies.Microsocks(b.sup, b.net.proxy, b.dir)
    try:
        b.exit(proxy=p)
        path, data = os.path.join(b.dir, "up"), os.urandom(16 << 20)
        with open(path, "wb") as f:
            f.write(data)
        with b.oracle(p):
            got = b.fetch(f"http://{b.net.inet.web4}/upload", "-H", "Expect:", "--data-binary", f"@{path}")
            expect(got == official.sha256(data), f"the server's checksum: {got!r}")
    finally:
        p.stop()


@case("the official client lists and selects it, and routes both families to it")
def listed(b):
    p = proxies.Microsocks(b.sup, b.net.proxy, b.dir)
    b.exit(proxy=p)
    b.client.no_exit()
    expect("exit" in b.client.cli("exit-node", "list"), "exit-node list does not show it")
    b.client.cli("set", "--exit-node=exit")
    peer = b.client.wait_peer("exit", lambda x: x.get("ExitNode"), "is selected by name")
    expect({"0.0.0.0/0", "::/0"} <= set(peer["AllowedIPs"]), f"AllowedIPs: {peer['AllowedIPs']}")
    p.stop()


def secrets_in(b, words):
    """Where any of these words can be read: status, logs, command lines, environments of our processes."""
    found = []
    texts = {"status --json": b.node.cli("status", "--json"), "status": b.node.status_text(), "log": b.node.proc.text()}
    for kind in ("cmdline", "environ"):
        with open(f"/proc/{b.node.proc.pid}/{kind}", "rb") as f:
            texts[kind] = f.read().decode("latin-1")
    for where, text in texts.items():
        found += [f"{w} in {where}" for w in words if w in text]
    return found


@case("a wrong password: the client is refused at once, status says why, nobody reads the credentials")
def wrong_password(b):
    p = proxies.Microsocks(b.sup, b.net.proxy, b.dir, credentials="right:right")
    try:
        b.exit("--verbose", proxy=p, credentials=f"{SECRET_USER}:{SECRET_PASSWORD}")
        with b.oracle(p):
            b.expect_no_page()
            if b.tun:
                b.expect_refused(b.net.inet.web4, 80)
        e = b.egress()
        expect(e["Failed"].get("proxy_auth", 0) > 0 and not e["ProxyHealthy"], f"status: {e}")
        expect(any("credentials" in h for h in b.node.status()["Health"]), f"health: {b.node.status()['Health']}")
        found = secrets_in(b, (SECRET_USER, SECRET_PASSWORD))
        expect(not found, "; ".join(found))
    finally:
        p.stop()


@case("squid says 407: the client is refused, with a reason of its own, and the request is not repeated")
def squid_407(b):
    if not proxies.have("squid"):
        raise Skip("squid is not installed")
    p = proxies.Squid(b.sup, b.net.proxy, b.dir, credentials="right:right")
    try:
        b.exit(proxy=p, credentials="wrong:wrong")
        with b.oracle(p):
            b.expect_no_page()
        expect(b.egress()["Failed"].get("proxy_auth", 0) > 0, f"status: {b.egress()}")
    finally:
        p.stop()


@case("the credentials may come from a file, and from the environment never reach the outside")
def credentials_from_file(b):
    p = proxies.Microsocks(b.sup, b.net.proxy, b.dir, credentials=f"{SECRET_USER}:{SECRET_PASSWORD}")
    path = os.path.join(b.dir, "proxy-url")
    with open(path, "w", encoding="ascii") as f:
        f.write(p.url() + "\n")
    os.chmod(path, 0o600)
    try:
        b.exit("--verbose", "--exit-proxy", f"file:{path}")
        with b.oracle(p):
            b.expect_through(p)
        found = secrets_in(b, (SECRET_USER, SECRET_PASSWORD))
        expect(not found, "; ".join(found))
    finally:
        p.stop()


@case("advertised without a proxy: off by default, refused at once, status names the missing setting")
def off_by_default(b):
    b.exit()
    with b.oracle():
        b.expect_no_page()
        if b.tun:
            b.expect_refused(b.net.inet.web4, 80)
        b.expect_no_page("http://web.example/ip")
    e = b.egress()
    expect(e["Mode"] == "off" and e["Advertised"], f"status: {e}")
    expect("exit" in e.get("Missing", ""), f"status names nothing missing: {e}")
    expect(b.node.status()["Health"], "no health line")


@case("not advertised: nothing is forwarded, whatever control approves")
def not_advertised(b):
    p = proxies.Microsocks(b.sup, b.net.proxy, b.dir)
    try:
        b.exit(proxy=p, advertise=False)
        b.control.approve_exit("exit")
        with b.oracle(p):
            b.expect_no_page()
    finally:
        p.stop()


@case("host mode only by its explicit setting: then from the node's own address")
def host_mode(b):
    b.exit("--exit-egress", "host")
    inet = b.net.inet
    with b.oracle(allow=[f"net {inet.ip4.rsplit('.', 1)[0]}.0/24", "net 2a00:45::/64"]):
        expect(b.fetch(f"http://{inet.web4}/ip") == b.net.node.ip4, "another source")
        expect(b.fetch(f"http://[{inet.web6}]/ip") == b.net.node.ip6, "another source for IPv6")
        expect(b.fetch("http://web.example/ip") in (b.net.node.ip4, b.net.node.ip6), "by name: another source")


@case("DNS of exit clients: GET and POST at the PeerAPI, answered through the proxy")
def peerapi_doh(b):
    p = proxies.Microsocks(b.sup, b.net.proxy, b.dir)
    query = bytes.fromhex("00000100000100000000000003776562076578616d706c650000010001")
    try:
        b.exit(proxy=p)
        urls = wait_until(lambda: (b.client.peer("exit") or {}).get("PeerAPIURL"), "the client knows the PeerAPI")
        encoded = base64.urlsafe_b64encode(query).decode().rstrip("=")
        path = os.path.join(b.dir, "query")
        with open(path, "wb") as f:
            f.write(query)
        post = ("-H", "Content-Type: application/dns-message", "--data-binary", f"@{path}")
        with b.oracle(p):
            for url in urls:
                for what, target, flags in (("GET", f"{url}/dns-query?dns={encoded}", ()), ("POST", f"{url}/dns-query", post)):
                    code, out, err = b.client.curl(target, *flags)
                    expect(code == 0 and bytes([45, 45, 45, 45]) in out, f"{what} {target}: curl {code} {out!r} {err}")
    finally:
        p.stop()


@case("DNS when the proxy is dead: no answer, and no question by another way")
def doh_without_proxy(b):
    p = proxies.Microsocks(b.sup, b.net.proxy, b.dir)
    b.exit(proxy=p)
    p.stop()
    asked = len(b.doh.asked())
    with b.oracle(p):
        b.expect_no_page("http://four.example/ip")
    expect(len(b.doh.asked()) == asked, "a question got through")
    status = b.node.status()
    problem = status["Egress"].get("DNSProblem")
    expect(problem and any(problem in line for line in status["Health"]), f"status does not tell: {status['Egress']}")


if __name__ == "__main__":
    main("exit", ExitBed, lambda: None if official.have("tailscaled", "testctl") else "tests/peers is not built (no Go)")
