"""The official side: testcontrol, headscale and derper as control plane; tailscaled and tsnet as peers."""
import hashlib
import json
import os
import subprocess

from .proc import Failure, LineTalk, expect, wait_until

BIN = os.environ.get("TN_PEERS_BIN") or os.path.join(os.path.dirname(__file__), "..", "..", "peers", "bin")
BIN = os.path.abspath(BIN)


def have(*names):
    return all(os.access(os.path.join(BIN, n), os.X_OK) for n in names)


def program(name):
    return os.path.join(BIN, name)


class TestControl:
    """tests/peers/testctl in the ctl namespace: control, DERP and STUN of the official test suite."""

    def __init__(self, sup, ns, auth_key="", require_auth=False, port=8080, same_user=True, magic_dns="tail.test",
                 second_stun=None):
        self.ns, self.auth_key = ns, auth_key
        argv = [program("testctl"), "-listen", f"{ns.ip4}:{port}", "-relay", ns.ip4, "-magic-dns", magic_dns]
        argv += ["-auth-key", auth_key] if auth_key else []
        argv += ["-relay2", second_stun] if second_stun else []
        argv += ["-require-auth"] if require_auth else []
        argv += [] if same_user else ["-same-user=false"]
        self.proc = sup.start("testctl", argv, ns=ns, stdin=True, stdout_pipe=True)
        self._talk = LineTalk(self.proc)
        hello = json.loads(self._talk.read())
        self.url, self.derp_port, self.stun_port = hello["url"], hello["derp_port"], hello["stun_port"]
        self.ports = [("tcp", port), ("tcp", self.derp_port), ("udp", self.stun_port)]

    def ask(self, op, **kw):
        answer = json.loads(self._talk.ask(json.dumps(dict(op=op, **kw))))
        if "error" in answer:
            raise Failure(f"testctl {op}: {answer['error']}")
        return answer["ok"]

    def node(self, hostname):
        for n in self.ask("nodes") or []:
            if n.get("Hostinfo", {}).get("Hostname") == hostname:
                return n
        return None

    def approve_exit(self, hostname):
        self.ask("routes", node=hostname, routes=["0.0.0.0/0", "::/0"])


class Derper:
    """cmd/derper with a certificate of its own making, pinned by hash in the DERP map that it hands out."""

    def __init__(self, sup, ns, workdir, port=3443, stun_port=3478):
        self.ns, self.port, self.stun_port = ns, port, stun_port
        d = os.path.join(workdir, "derper")
        os.makedirs(d, exist_ok=True)
        self.proc = sup.start("derper", [
            program("derper"), "-c", os.path.join(d, "derper.key"), "-hostname", ns.ip4, "-certmode", "manual",
            "-certdir", d, "-a", f"{ns.ip4}:{port}", "-http-port", "-1", "-stun-port", stun_port], ns=ns)
        self.cert = wait_until(lambda: self._cert_name(), "derper prints its certificate's hash", alive=[self.proc])

    def _cert_name(self):
        for word in self.proc.text().replace('"', " ").replace(",", " ").split():
            if word.startswith("sha256-raw:"):
                return word
        return None

    def region(self):
        node = {"Name": "9a", "RegionID": 900, "HostName": self.ns.ip4, "IPv4": self.ns.ip4, "IPv6": "none",
                "CertName": self.cert, "DERPPort": self.port, "STUNPort": self.stun_port, "CanPort80": False}
        return {"RegionID": 900, "RegionCode": "test", "RegionName": "test", "Nodes": [node]}


HEADSCALE_CONFIG = """
server_url: http://{ip}:{port}
listen_addr: {ip}:{port}
metrics_listen_addr: 127.0.0.1:0
grpc_listen_addr: 127.0.0.1:50443
grpc_allow_insecure: false
noise: {{private_key_path: {dir}/noise.key}}
prefixes: {{v4: 100.64.0.0/10, v6: "fd7a:115c:a1e0::/48", allocation: sequential}}
derp:
  server: {{enabled: false}}
  urls: []
  paths: ["{dir}/derp.yaml"]
  auto_update_enabled: false
disable_check_updates: true
ephemeral_node_inactivity_timeout: 30m
database: {{type: sqlite, sqlite: {{path: {dir}/db.sqlite, write_ahead_log: true}}}}
log: {{level: info, format: text}}
policy: {{mode: file, path: {dir}/policy.json}}
dns: {{magic_dns: true, base_domain: tail.test, override_local_dns: false, nameservers: {{global: []}}, search_domains: []}}
unix_socket: {dir}/headscale.sock
unix_socket_permission: "0700"
logtail: {{enabled: false}}
randomize_client_port: false
"""


class Headscale:
    """headscale with a file policy that lets everyone talk and approves exit nodes of user 1."""

    def __init__(self, sup, ns, workdir, derper, port=8081):
        self.sup, self.ns, self.port = sup, ns, port
        self.url = f"http://{ns.ip4}:{port}"
        self.dir = os.path.join(workdir, "headscale")
        os.makedirs(self.dir, exist_ok=True)
        self._write("config.yaml", HEADSCALE_CONFIG.format(ip=ns.ip4, port=port, dir=self.dir))
        self._write("policy.json", json.dumps({"acls": [{"action": "accept", "src": ["*"], "dst": ["*:*"]}],
                                               "autoApprovers": {"exitNode": ["main@"]}}))
        self._write("derp.yaml", self._derp_yaml(derper))
        self.ports = [("tcp", port), ("tcp", derper.port), ("udp", derper.stun_port)]
        self.start()
        self.cli("users", "create", "main")

    def _write(self, name, text):
        with open(os.path.join(self.dir, name), "w", encoding="ascii") as f:
            f.write(text)

    @staticmethod
    def _derp_yaml(derper):
        n = derper.region()["Nodes"][0]
        return (f"regions:\n  900:\n    regionid: 900\n    regioncode: test\n    regionname: test\n    nodes:\n"
                f"      - name: {n['Name']}\n        regionid: 900\n        hostname: {n['HostName']}\n"
                f"        ipv4: {n['IPv4']}\n        ipv6: none\n        stunport: {n['STUNPort']}\n"
                f"        derpport: {n['DERPPort']}\n        certname: \"{n['CertName']}\"\n        canport80: false\n")

    def start(self):
        self.proc = self.sup.start("headscale", [program("headscale"), "-c", f"{self.dir}/config.yaml", "serve"], ns=self.ns)
        wait_until(lambda: self._answers(), "headscale answers its socket", timeout=60, alive=[self.proc])

    def _answers(self):
        return os.path.exists(f"{self.dir}/headscale.sock") and self._cli("users", "list").returncode == 0

    def _cli(self, *args):
        argv = [program("headscale"), "-c", f"{self.dir}/config.yaml", *args]
        return subprocess.run(self.ns.wrap(argv), capture_output=True, text=True, timeout=30)

    def cli(self, *args):
        r = self._cli(*args)
        expect(r.returncode == 0, f"headscale {' '.join(args)}: {r.stderr.strip()}")
        return r.stdout

    def preauth_key(self, *flags):
        """A reusable key of user 1. The command may print more than the key; the key is the last word."""
        return self.cli("preauthkeys", "create", "-u", "1", "--reusable", *flags).split()[-1]

    def nodes(self):
        return json.loads(self.cli("nodes", "list", "-o", "json") or "[]") or []


TAILSCALED_ENV = {
    "TS_DISABLE_PORTMAPPER": "1", "TS_ASSUME_NETWORK_UP_FOR_TEST": "1", "TS_PANIC_IF_HIT_MAIN_CONTROL": "1",
    "TS_DEBUG_PERMIT_HTTP_C2N": "1", "TS_DEBUG_NEVER_DIRECT_UDP": "1", "TS_DEBUG_FIREWALL_MODE": "auto",
}


def _peer_env(direct, env=None):
    """direct: the official node may use direct paths; most tests are about what flows, and want one path for it."""
    full = dict(TAILSCALED_ENV, **(env or {}))
    if direct:
        del full["TS_DEBUG_NEVER_DIRECT_UDP"]
    return full


class Tailscaled:
    """An official node. Userspace networking with a SOCKS5 server in front, or a TUN device (tun=True, real root)."""

    SOCKS = "127.0.0.1:1055"

    def __init__(self, sup, ns, workdir, hostname, tun=False, env=None, direct=False):
        self.ns, self.hostname, self.tun = ns, hostname, tun
        self.dir = os.path.join(workdir, f"tailscaled-{hostname}")
        os.makedirs(self.dir, exist_ok=True)
        self.socket = os.path.join(self.dir, "sock")
        self._sup, self._env = sup, _peer_env(direct, env)
        self.start()

    def start(self):
        argv = [program("tailscaled"), f"--statedir={self.dir}", f"--socket={self.socket}", "--no-logs-no-support",
                "--port=0", f"--socks5-server={self.SOCKS}"]
        argv.append("--tun=tailscale0" if self.tun else "--tun=userspace-networking")
        self.proc = self._sup.start(f"tailscaled-{self.hostname}", argv, ns=self.ns, env=self._env)
        wait_until(lambda: os.path.exists(self.socket), "tailscaled's socket", alive=[self.proc])

    def try_cli(self, *args, timeout=60):
        argv = [program("tailscale"), f"--socket={self.socket}", *map(str, args)]
        return subprocess.run(self.ns.wrap(argv), capture_output=True, text=True, timeout=timeout)

    def cli(self, *args, timeout=60):
        r = self.try_cli(*args, timeout=timeout)
        expect(r.returncode == 0, f"tailscale {' '.join(map(str, args))}: {r.stdout}{r.stderr}".strip())
        return r.stdout

    def up(self, url, auth_key="", *flags):
        args = ["up", f"--login-server={url}", f"--hostname={self.hostname}", "--timeout=60s", *flags]
        args += [f"--auth-key={auth_key}"] if auth_key else []
        args += ["--netfilter-mode=off"] if self.tun else []
        self.cli(*args, timeout=90)
        self.wait_running()

    def status(self):
        return json.loads(self.cli("status", "--json"))

    def wait_running(self):
        wait_until(lambda: self.status()["BackendState"] == "Running", f"{self.hostname} runs", alive=[self.proc])

    def ips(self):
        return self.status()["Self"]["TailscaleIPs"]

    def peer(self, hostname):
        for p in (self.status().get("Peer") or {}).values():
            if p["HostName"] == hostname:
                return p
        return None

    def wait_peer(self, hostname, want=lambda p: True, what="is known", timeout=30):
        return wait_until(lambda: (lambda p: p if p and want(p) else None)(self.peer(hostname)),
                          f"{hostname} {what} to {self.hostname}", timeout=timeout, alive=[self.proc])

    def ping(self, target, *flags, timeout=20):
        """`tailscale ping` of one pong: True when it came."""
        args = ("ping", "--c=1", f"--timeout={timeout}s", "--until-direct=false", *flags, target)
        return self.try_cli(*args, timeout=timeout + 10).returncode == 0

    def use_exit(self, hostname):
        """Selects the exit node as a person would, and waits until it is in effect and knows this client too: a handshake
        that comes before the other side's netmap does is repeated only after 5 s."""
        p = self.wait_peer(hostname, lambda p: p.get("ExitNodeOption"), "offers to be an exit node")
        address = p["TailscaleIPs"][0]
        wait_until(lambda: self.ping(address, "--tsmp", timeout=3), f"{hostname} answers {self.hostname}'s TSMP ping")
        self.cli("set", f"--exit-node={address}")
        self.wait_peer(hostname, lambda p: p.get("ExitNode"), "is the exit node")
        return p

    def no_exit(self):
        self.cli("set", "--exit-node=")

    def curl(self, url, *flags, timeout=60):
        """curl from this client: (exit status, stdout bytes, stderr). By SOCKS in userspace mode, plainly with a TUN."""
        argv = ["curl", "-sS", "--max-time", str(timeout), *flags]
        argv += [] if self.tun else ["--socks5-hostname", self.SOCKS]
        r = subprocess.run(self.ns.wrap(argv + [url]), capture_output=True, timeout=timeout + 10)
        return r.returncode, r.stdout, r.stderr.decode(errors="replace").strip()

    def download(self, url, timeout=240):
        """(sha256, bytes, seconds) of a download that is not kept."""
        fmt = "\n%{size_download} %{time_total}"
        pipe = 'curl -sS --fail --max-time "$2" $3 -o >(sha256sum >"$4") -w "$5" "$1"; e=$?; wait; exit $e'
        out = os.path.join(self.dir, "sum")
        via = "" if self.tun else f"--socks5-hostname {self.SOCKS}"
        r = subprocess.run(self.ns.wrap(["bash", "-c", pipe, "x", url, str(timeout), via, out, fmt]),
                           capture_output=True, text=True, timeout=timeout + 10)
        expect(r.returncode == 0, f"download of {url}: curl exit {r.returncode}: {r.stderr.strip()}")
        size, seconds = r.stdout.split()[-2:]
        wait_until(lambda: os.path.exists(out) and os.path.getsize(out) > 60, "the download's checksum")
        with open(out, encoding="ascii") as f:
            return f.read().split()[0], int(size), float(seconds)


class Tsnet:
    """tests/peers/tsnetpeer: a program on tsnet. Gives exact socket errors, which a SOCKS server in between would hide."""

    def __init__(self, sup, ns, workdir, url, hostname, mode, auth_key="", exit_node="", flags=(),
                 direct=False):
        d = os.path.join(workdir, f"tsnet-{hostname}")
        os.makedirs(d, exist_ok=True)
        argv = [program("tsnetpeer"), "-control", url, "-dir", d, "-hostname", hostname, "-mode", mode, *flags]
        argv += ["-auth-key", auth_key] if auth_key else []
        argv += ["-exit-node", exit_node] if exit_node else []
        self.proc = sup.start(f"tsnet-{hostname}", argv, ns=ns, env=_peer_env(direct), stdin=True, stdout_pipe=True)
        self._talk = LineTalk(self.proc)
        self.hello = json.loads(self._talk.read(timeout=90))
        self.ips = self.hello["ips"]
        if mode == "serve":
            expect(json.loads(self._talk.read()).get("serving"), "tsnet serves")

    def ask(self, line, timeout=120):
        return json.loads(self._talk.ask(line, timeout))

    def read(self, timeout=90):
        return json.loads(self._talk.read(timeout))


def sha256(data):
    return hashlib.sha256(data).hexdigest()
