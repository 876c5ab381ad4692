"""The proxies an exit node stands behind, each in the foreground, from a configuration made here, without its own user."""
import hashlib
import os
import shutil
import signal
import socket
import subprocess

from .proc import wait_until


def have(program):
    return bool(shutil.which(program))


def listening(ns, addr, port):
    """True when something accepts connections there, asked from inside the namespace itself."""
    family = socket.AF_INET6 if ":" in addr else socket.AF_INET
    s = ns.socket(family)
    s.settimeout(2)
    try:
        return s.connect_ex((addr, port)) == 0
    finally:
        s.close()


def descendants(pid):
    found = []
    try:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as f:
            children = [int(word) for word in f.read().split()]
    except OSError:
        return found
    for child in children:
        found += [child] + descendants(child)
    return found


def make_certificate(folder, ip):
    """A self-signed one for this address: (certificate, key)."""
    cert, key = os.path.join(folder, "cert.pem"), os.path.join(folder, "key.pem")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
                    "-subj", "/CN=proxy.test", "-addext", f"subjectAltName=IP:{ip}", "-keyout", key, "-out", cert],
                   check=True, capture_output=True)
    os.chmod(key, 0o644)
    return cert, key


def pin_of(cert):
    der = subprocess.run(["openssl", "x509", "-in", cert, "-outform", "DER"], check=True, capture_output=True).stdout
    return "sha256:" + hashlib.sha256(der).hexdigest()


class Proxy:
    """scheme://[credentials@]host:port of a running proxy, and the sources by which the web sees it."""

    program = None
    scheme = "socks5"
    port = 1080

    def __init__(self, sup, ns, workdir, credentials=None):
        self.sup, self.ns, self.credentials = sup, ns, credentials
        self.dir = os.path.join(workdir, f"{type(self).__name__.lower()}-{'auth' if credentials else 'open'}")
        os.makedirs(self.dir, exist_ok=True)
        os.chmod(self.dir, 0o777)
        self.start()

    def start(self):
        self.proc = self.sup.start(self.program, self.argv(), ns=self.ns)
        wait_until(lambda: listening(self.ns, self.ns.ip4, self.port), f"{self.program} listens", alive=[self.proc])

    def stop(self):
        self.proc.kill()

    def url(self, credentials=True, host=None):
        c = credentials if isinstance(credentials, str) else self.credentials if credentials else None
        return f"{self.scheme}://{c + '@' if c else ''}{host or self.ns.ip4}:{self.port}"

    def sources(self):
        return {self.ns.ip4, self.ns.ip6}

    def write(self, name, text):
        path = os.path.join(self.dir, name)
        with open(path, "w", encoding="ascii") as f:
            f.write(text)
        return path

    def argv(self):
        raise NotImplementedError


class Microsocks(Proxy):
    program = "microsocks"

    def argv(self):
        argv = ["microsocks", "-i", self.ns.ip4, "-p", str(self.port)]
        if self.credentials:
            user, password = self.credentials.split(":")
            argv += ["-u", user, "-P", password]
        return argv


class Dante(Proxy):
    """Both families outside. A reply to an IPv6 destination names an IPv6 address."""

    program = "danted"
    port = 1081

    def stop(self):
        """With all its children: one that relays UDP and hears nothing does not notice that its mother is gone."""
        family = descendants(self.proc.pid)
        super().stop()
        for pid in family:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def argv(self):
        return ["/usr/sbin/danted", "-f", self.write("danted.conf", f"""
logoutput: stderr
internal: {self.ns.ip4} port = {self.port}
external: eth0
external.rotation: route
socksmethod: none
clientmethod: none
user.privileged: root
user.unprivileged: root
client pass {{ from: 0.0.0.0/0 to: 0.0.0.0/0 }}
socks pass {{ from: 0.0.0.0/0 to: 0.0.0.0/0 protocol: tcp udp }}
socks pass {{ from: 0.0.0.0/0 to: ::/0 protocol: tcp udp }}
""")]


class Tinyproxy(Proxy):
    program = "tinyproxy"
    scheme = "http"
    port = 8888

    def argv(self):
        auth = ""
        if self.credentials:
            user, password = self.credentials.split(":")
            auth = f"BasicAuth {user} {password}\n"
        return ["tinyproxy", "-d", "-c", self.write("tinyproxy.conf", f"""
Port {self.port}
Listen {self.ns.ip4}
Timeout 600
MaxClients 500
DisableViaHeader Yes
LogLevel Connect
{auth}""")]


class Squid(Proxy):
    """Squid insists on giving up root; in a user namespace that maps the caller to another uid it finds nothing to give."""

    program = "squid"
    scheme = "http"
    port = 3128

    def listen(self):
        return f"http_port {self.ns.ip4}:{self.port}"

    def argv(self):
        auth = "http_access allow all"
        if self.credentials:
            user, password = self.credentials.split(":")
            helper = self.write("auth.sh", "#!/bin/sh\nwhile read -r line; do\n  [ \"$line\" = "
                                f"\"{user} {password}\" ] && echo OK || echo ERR\ndone\n")
            os.chmod(helper, 0o755)
            auth = (f"auth_param basic program {helper}\nauth_param basic children 1\nauth_param basic realm test\n"
                    "acl known proxy_auth REQUIRED\nhttp_access allow known\nhttp_access deny all")
        conf = self.write("squid.conf", f"""
{auth}
{self.listen()}
visible_hostname squid.test
pid_filename none
pinger_enable off
access_log stdio:{self.dir}/access.log
cache_log {self.dir}/cache.log
cache_store_log none
coredump_dir {self.dir}
cache deny all
cache_mem 8 MB
max_filedescriptors 1024
shutdown_lifetime 1 second
netdb_filename none
connect_retries 0
""")
        return ["unshare", "--map-user=1000", "--map-group=1000", "/usr/sbin/squid", "-N", "-f", conf]


class SquidTls(Squid):
    """The same behind TLS, with a certificate for its address that is made here."""

    scheme = "https"
    port = 3129

    def listen(self):
        self.cert, self.key = make_certificate(self.dir, self.ns.ip4)
        return f"https_port {self.ns.ip4}:{self.port} tls-cert={self.cert} tls-key={self.key}"

    def pin(self):
        return pin_of(self.cert)


ALL = {"microsocks": Microsocks, "danted": Dante, "tinyproxy": Tinyproxy, "squid": Squid}
