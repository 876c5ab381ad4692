// Command tsnetpeer is a small program on tsnet, the official embedded node,
// as a peer for tests.
//
//	tsnetpeer -control URL -dir D -hostname H -auth-key K -mode serve
//	    serves on its tailnet addresses: 7 echo, 9 sink, 19 source of bytes, 80 HTTP
//	tsnetpeer ... -mode dial -targets HOST:PORT    stdin lines "HOST:PORT text" => one JSON answer each
//	tsnetpeer ... -mode get                        stdin lines "URL" => one JSON answer each
//	tsnetpeer speed ...                            bench/speed on tsnet, see speed.go
//	tsnetpeer ... -mode usable -target HOST:PORT   time from start to the first byte over the tailnet
//
// When the node is up it prints {"ready":true,"ips":[...],"ms":N} as one line.
// With -exit-node IP all other destinations go through that node.
package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"time"

	"tailscale.com/ipn"
	"tailscale.com/net/netns"
	"tailscale.com/tsnet"
)

const stepTimeout = 60 * time.Second

var out = json.NewEncoder(os.Stdout)

func main() {
	start := time.Now()
	if len(os.Args) > 2 && os.Args[1] == "speed" {
		speed(os.Args[2:])
		return
	}
	control := flag.String("control", "", "control URL")
	dir := flag.String("dir", "", "state directory")
	hostname := flag.String("hostname", "tsnetpeer", "host name")
	authKey := flag.String("auth-key", "", "auth key")
	mode := flag.String("mode", "serve", "serve, dial, get or usable")
	target := flag.String("target", "", "address for -mode usable")
	exitNode := flag.String("exit-node", "", "IP of the exit node to use")
	ephemeral := flag.Bool("ephemeral", false, "register as ephemeral")
	verbose := flag.Bool("verbose", false, "log")
	flag.Parse()
	netns.SetEnabled(false)

	s := &tsnet.Server{ControlURL: *control, Dir: *dir, Hostname: *hostname, AuthKey: *authKey, Ephemeral: *ephemeral,
		Logf: func(string, ...any) {}}
	if *verbose {
		s.Logf = log.Printf
	}
	ctx, cancel := context.WithTimeout(context.Background(), stepTimeout)
	st, err := s.Up(ctx)
	cancel()
	if err != nil {
		log.Fatal(err)
	}
	if *exitNode != "" {
		useExitNode(s, *exitNode)
	}
	ips := []string{}
	for _, ip := range st.TailscaleIPs {
		ips = append(ips, ip.String())
	}
	out.Encode(map[string]any{"ready": true, "ips": ips, "ms": time.Since(start).Milliseconds()})
	switch *mode {
	case "serve":
		serve(s)
	case "dial":
		lines(func(line string) any { return dial(s, line) })
	case "get":
		lines(func(line string) any { return get(s, line) })
	case "usable":
		out.Encode(usable(s, *target, start))
	default:
		log.Fatalf("unknown mode %q", *mode)
	}
	s.Close()
}

func useExitNode(s *tsnet.Server, ip string) {
	lc, err := s.LocalClient()
	if err != nil {
		log.Fatal(err)
	}
	mp := &ipn.MaskedPrefs{ExitNodeIPSet: true}
	mp.ExitNodeIP = netip.MustParseAddr(ip)
	if _, err := lc.EditPrefs(context.Background(), mp); err != nil {
		log.Fatal(err)
	}
}

func lines(answer func(string) any) {
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 4<<20)
	for in.Scan() {
		out.Encode(answer(in.Text()))
	}
}

func serve(s *tsnet.Server) {
	tcp := map[string]func(net.Conn){
		":7":  func(c net.Conn) { io.Copy(c, c); c.(interface{ CloseWrite() error }).CloseWrite() },
		":9":  func(c net.Conn) { io.Copy(io.Discard, c) },
		":19": source,
	}
	for addr, f := range tcp {
		ln, err := s.Listen("tcp", addr)
		if err != nil {
			log.Fatal(err)
		}
		go func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				go func() { defer c.Close(); f(c) }()
			}
		}()
	}
	ln, err := s.Listen("tcp", ":80")
	if err != nil {
		log.Fatal(err)
	}
	go http.Serve(ln, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "hello from tsnet to "+r.RemoteAddr+"\n")
	}))
	out.Encode(map[string]any{"serving": true})
	io.Copy(io.Discard, os.Stdin) // until the harness lets go
}

// source reads a line with a number of bytes and sends so many.
func source(c net.Conn) {
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return
	}
	var n int
	if json.Unmarshal([]byte(strings.TrimSpace(line)), &n) != nil {
		return
	}
	buf := make([]byte, 64<<10)
	for i := range buf {
		buf[i] = byte(i * 7)
	}
	for n > 0 {
		w, err := c.Write(buf[:min(n, len(buf))])
		if err != nil {
			return
		}
		n -= w
	}
}

// dial connects, sends the text, closes its half, and reports what came back.
func dial(s *tsnet.Server, line string) any {
	addr, text, _ := strings.Cut(line, " ")
	ctx, cancel := context.WithTimeout(context.Background(), stepTimeout)
	defer cancel()
	start := time.Now()
	c, err := s.Dial(ctx, "tcp", addr)
	if err != nil {
		return map[string]any{"error": err.Error(), "ms": time.Since(start).Milliseconds()}
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(stepTimeout))
	connected := time.Since(start).Milliseconds()
	if _, err := io.WriteString(c, text+"\n"); err != nil {
		return map[string]any{"error": err.Error(), "connected_ms": connected}
	}
	if cw, ok := c.(interface{ CloseWrite() error }); ok {
		cw.CloseWrite()
	}
	h := sha256.New()
	first := make([]byte, 4096)
	n, err := c.Read(first)
	h.Write(first[:n])
	total := int64(n)
	if err == nil {
		var more int64
		more, err = io.Copy(h, c)
		total += more
	}
	res := map[string]any{"connected_ms": connected, "first": string(first[:n]), "bytes": total,
		"sha256": hex.EncodeToString(h.Sum(nil)), "ms": time.Since(start).Milliseconds()}
	if err != nil && err != io.EOF {
		res["error"] = err.Error()
	}
	return res
}

func get(s *tsnet.Server, url string) any {
	start := time.Now()
	cl := s.HTTPClient()
	cl.Timeout = 5 * stepTimeout
	res, err := cl.Get(url)
	if err != nil {
		return map[string]any{"error": err.Error(), "ms": time.Since(start).Milliseconds()}
	}
	defer res.Body.Close()
	h := sha256.New()
	n, err := io.Copy(h, res.Body)
	a := map[string]any{"status": res.StatusCode, "bytes": n, "sha256": hex.EncodeToString(h.Sum(nil)),
		"ms": time.Since(start).Milliseconds()}
	if err != nil {
		a["error"] = err.Error()
	}
	return a
}

func usable(s *tsnet.Server, target string, start time.Time) any {
	for time.Since(start) < stepTimeout {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		c, err := s.Dial(ctx, "tcp", target)
		if err == nil {
			io.WriteString(c, "x\n")
			_, err = c.Read(make([]byte, 1))
			c.Close()
		}
		cancel()
		if err == nil {
			return map[string]any{"usable_ms": time.Since(start).Milliseconds()}
		}
	}
	return map[string]any{"error": "never usable"}
}
