// Filtervectors prints what Go's packet filter says to random rules and packets, as vectors for
// tests/unit/filter/test_vectors.c. Run it in tests/peers: go run ./filtervectors > ../unit/filter/vectors.txt
//
// Lines: "rules JSON" begins a set (flow state starts anew), "out HEX" is a packet of ours, "in HEX accept|drop" one from a
// peer. Left out are the points where ours is stricter on purpose: later fragments and destinations that
// are not ours together, capabilities with ICMP, TSMP in IPv6 fragments, the broadcast address, IPv6
// extension headers but Fragment. So is ICMP type 12 (parameter problem), an error that Go
// does not take for one because its constant is 0x12, type 18.
package main

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand"
	"net/netip"
	"os"
	"strconv"

	"go4.org/netipx"
	"tailscale.com/net/packet"
	"tailscale.com/tailcfg"
	"tailscale.com/wgengine/filter"
)

var rng = rand.New(rand.NewSource(3))

func pick[T any](s ...T) T { return s[rng.Intn(len(s))] }

var hosts4 = []string{"100.64.0.1", "100.64.0.2", "100.64.0.3", "10.1.0.5", "10.1.0.6", "192.0.2.1", "169.254.169.254", "169.254.0.9", "224.0.0.251"}
var hosts6 = []string{"fd7a:115c:a1e0::1", "fd7a:115c:a1e0::2", "fd7a:115c:a1e0::3", "2001:db8::5", "fe80::1", "ff02::fb"}

// ours are the destinations that both filters take for local.
var ours = []string{"100.64.0.1/32", "fd7a:115c:a1e0::1/128", "10.1.0.0/24", "2001:db8::/64", "169.254.169.254/32"}

func entry() string {
	return pick("*", "*", "*", "100.64.0.2", "fd7a:115c:a1e0::2", "100.64.0.0/10", "fd7a:115c:a1e0::/48", "100.64.0.1", "fd7a:115c:a1e0::1",
		"10.1.0.0/24", "10.1.0.4-10.1.0.5", "2001:db8::-2001:db8::9", "100.64.0.3-100.64.0.200", "0.0.0.0/0", "::/0", "192.0.2.1", "cap:yes", "cap:no")
}

func rule() tailcfg.FilterRule {
	var r tailcfg.FilterRule
	for range rng.Intn(3) + 1 {
		r.SrcIPs = append(r.SrcIPs, entry())
	}
	for range rng.Intn(3) {
		e := entry()
		for e[0] == 'c' {
			e = entry()
		}
		pr := tailcfg.PortRange{First: uint16(rng.Intn(4)), Last: uint16(rng.Intn(5))}
		if rng.Intn(3) == 0 {
			pr = tailcfg.PortRangeAny
		}
		r.DstPorts = append(r.DstPorts, tailcfg.NetPortRange{IP: e, Ports: pr})
	}
	for range rng.Intn(3) {
		r.IPProto = append(r.IPProto, pick(6, 17, 1, 58, 132, 47, 99, 2, 300, -1))
	}
	return r
}

func sum(b []byte) uint16 {
	var s uint32
	for i := 0; i+1 < len(b); i += 2 {
		s += uint32(b[i])<<8 | uint32(b[i+1])
	}
	for s>>16 != 0 {
		s = s&0xffff + s>>16
	}
	return ^uint16(s)
}

func transport(proto int) []byte {
	n := pick(28, 28, 28, 28, 28, 20, 19, 12, 11, 8, 7, 4, 3)
	l4 := make([]byte, n)
	p := make([]byte, 28)
	binary.BigEndian.PutUint16(p, uint16(rng.Intn(3)))
	binary.BigEndian.PutUint16(p[2:], uint16(rng.Intn(6)))
	p[12] = 0x50
	p[13] = pick[byte](2, 2, 2, 0x12, 0x10, 0, 0xc2, 4)
	if proto == 1 || proto == 58 {
		p[0] = pick[byte](0, 3, 5, 8, 11, 13, 1, 2, 4, 128, 129, 134)
		p[1] = pick[byte](0, 0, 0, 1)
	}
	copy(l4, p)
	return l4
}

func build(src, dst netip.Addr) []byte {
	proto := pick(6, 6, 6, 17, 17, 1, 58, 132, 47, 99, 2, 0, 255)
	l4 := transport(proto)
	frag := rng.Intn(6) == 0
	offset := pick(0, 0, 8, 72, 80, 400)
	more := rng.Intn(2)
	if src.Is4() {
		b := make([]byte, 20, 64)
		b[0] = 0x45
		binary.BigEndian.PutUint16(b[2:], uint16(20+len(l4)))
		if frag {
			binary.BigEndian.PutUint16(b[6:], uint16(offset/8|more<<13))
		}
		b[8] = 64
		b[9] = byte(proto)
		copy(b[12:], src.AsSlice())
		copy(b[16:], dst.AsSlice())
		binary.BigEndian.PutUint16(b[10:], sum(b))
		return append(b, l4...)
	}
	if proto == 0 || proto == 99 && frag {
		proto = 6
	}
	b := make([]byte, 40, 96)
	b[0] = 0x60
	b[6] = byte(proto)
	if frag {
		b[6] = 44
		l4 = append([]byte{byte(proto), 0, byte(offset >> 8), byte(offset) | byte(more), 0, 0, 0, 7}, l4...)
	}
	binary.BigEndian.PutUint16(b[4:], uint16(len(l4)))
	b[7] = 64
	copy(b[8:], src.AsSlice())
	copy(b[24:], dst.AsSlice())
	return append(b, l4...)
}

func main() {
	if len(os.Args) > 1 { // another seed
		n, _ := strconv.Atoi(os.Args[1])
		rng.Seed(int64(n))
	}
	var lb netipx.IPSetBuilder
	for _, p := range ours {
		lb.AddPrefix(netip.MustParsePrefix(p))
	}
	local, _ := lb.IPSet()
	hasCap := func(ip netip.Addr, c tailcfg.NodeCapability) bool { return c == "yes" }
	for range 40 {
		var rules []tailcfg.FilterRule
		for range rng.Intn(4) {
			rules = append(rules, rule())
		}
		matches, err := filter.MatchesFromFilterRules(rules)
		if err != nil {
			panic(err)
		}
		usesCaps := false
		for _, m := range matches {
			usesCaps = usesCaps || len(m.SrcCaps) > 0
		}
		f := filter.New(matches, hasCap, local, local, nil, func(string, ...any) {})
		j, _ := json.Marshal(rules)
		fmt.Printf("rules %s\n", j)
		for range 40 {
			hosts := pick(hosts4, hosts6)
			src, dst := netip.MustParseAddr(pick(hosts[:3]...)), netip.MustParseAddr(pick(hosts...))
			if rng.Intn(2) == 0 {
				dst = netip.MustParseAddr(hosts[0])
			}
			b := build(src, dst)
			var q packet.Parsed
			if rng.Intn(5) == 0 {
				b = build(netip.MustParseAddr(hosts[0]), netip.MustParseAddr(hosts[1]))
				q.Decode(b)
				f.RunOut(&q, 0)
				fmt.Printf("out %s\n", hex.EncodeToString(b))
				continue
			}
			q.Decode(b)
			if q.IPProto == 0xff && !local.Contains(dst) || usesCaps && (q.IPProto == 1 || q.IPProto == 58) {
				continue
			}
			verdict := "drop"
			if f.RunIn(&q, 0) == filter.Accept {
				verdict = "accept"
			}
			fmt.Printf("in %s %s\n", hex.EncodeToString(b), verdict)
		}
	}
}
