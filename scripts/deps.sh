#!/bin/sh
# Installs what Debian packages are missing: scripts/deps.sh build|demo|test ...
#
#   build   compiler, meson and the libraries
#   demo    what ./quickstart shows the exit node with
#   test    what ./check needs beyond that: proxies, a DNS server, capture
#
# With --list it prints the packages and does nothing. Installs as root, or by sudo where the caller is not. Where it
# can't, it says in one line what is missing and exits with 1. Does nothing when all is there. Daemons that come with
# these packages (squid, tinyproxy, dante, unbound) are neither started nor left enabled: the tests run their own.
set -eu

build="gcc libc6-dev meson ninja-build pkg-config python3 libuv1-dev libssl-dev libsodium-dev libnghttp2-dev libzstd-dev
 libjansson-dev"
build="$build libminiupnpc-dev libnatpmp-dev"
demo="python3 iproute2 util-linux procps curl ca-certificates openssl microsocks tcpdump"
test="libcmocka-dev ccache iputils-ping dante-server tinyproxy-bin squid unbound dnsutils dnsperf"
test="$test nftables miniupnpd-nftables git dropbear-bin"
services="microsocks danted tinyproxy squid unbound"
services="$services miniupnpd"
# Optional: faster where it exists, for x86-64 only.
optional="libipsec-mb-dev"

list=no
want=""
for arg in "$@"; do
    case $arg in
    --list) list=yes ;;
    build) want="$want $build" ;;
    demo) want="$want $demo" ;;
    test) want="$want $test" ;;
    *) echo "usage: scripts/deps.sh [--list] build|demo|test ..." >&2; exit 2 ;;
    esac
done
if [ "$list" = yes ]; then echo $want; exit 0; fi

if ! command -v dpkg-query >/dev/null; then
    echo "scripts/deps.sh: not a Debian system; needed are the equivalents of:" $want >&2
    exit 0 # meson and the tests tell what they miss
fi

installed() { dpkg-query -W -f='${Status}' "$1" 2>/dev/null | grep -q 'ok installed'; }
missing=""
for p in $want; do
    installed "$p" || case " $missing " in *" $p "*) ;; *) missing="$missing $p" ;; esac
done
[ -n "$missing" ] || exit 0
case " $want " in *" libuv1-dev "*)
    [ "$(dpkg --print-architecture)" != amd64 ] || installed "$optional" || missing="$missing $optional" ;;
esac

as_root=""
if [ "$(id -u)" != 0 ]; then
    if command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
        as_root=sudo
    else
        echo "missing packages; as root: apt-get install$missing" >&2
        exit 1
    fi
fi

echo "installing$missing"
present=""
for s in $services; do installed "$s" && present="$present $s"; done
# Whoever asks before starting a service is told no, for the time of this installation.
policy=/usr/sbin/policy-rc.d
made_policy=no
if [ ! -e $policy ]; then
    made_policy=yes
    trap '$as_root rm -f $policy' EXIT
    trap 'exit 130' INT TERM HUP
    printf '#!/bin/sh\nexit 101\n' | $as_root tee $policy >/dev/null
    $as_root chmod 755 $policy
fi
log=$(mktemp)
apt="$as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0"
if ! { $apt update && $apt install -y --no-install-recommends $missing; } >"$log" 2>&1; then
    tail -5 "$log" >&2
    echo "apt-get could not install:$missing" >&2
    rm -f "$log"
    exit 1
fi
rm -f "$log"
if [ $made_policy = yes ] && command -v systemctl >/dev/null; then
    for s in $services; do
        case " $present " in *" $s "*) ;; *) $as_root systemctl disable --quiet "$s" 2>/dev/null || true ;; esac
    done
fi
