// Command testctl runs Tailscale's own test control server (testcontrol) with
// DERP and STUN beside it, as one process that a test harness can steer.
//
// On start it prints one JSON line: {"url": ..., "derp_port": ..., "stun_port": ...}.
// After that each line on stdin is a JSON request and each line on stdout its
// answer, in order; end of input ends the process. Nodes are named by their
// Hostinfo.Hostname, since that is what a test chooses.
//
//	{"op":"nodes"}
//	{"op":"routes","node":"exit","routes":["0.0.0.0/0","::/0"]}   what control approves for a node
//	{"op":"complete-auth","url":"http://.../auth/..."}           the user clicked
//	{"op":"require-auth","on":true}  {"op":"require-auth-key","key":"..."}
//	{"op":"expire-all","on":true}    {"op":"expire-node","node":"a","in_seconds":-60}
//	{"op":"c2n","node":"a","path":"/echo","body":"hello"}        answer: status and body
//	{"op":"ping","node":"a","types":"TSMP","ip":"100.64.0.2"}    answer: tailcfg.PingResponse
//	{"op":"head-ping","node":"a"}                                waits for the node's HEAD request
//	{"op":"dns","config":{...tailcfg.DNSConfig...}}
//	{"op":"raw-map","node":"a","map":{...tailcfg.MapResponse...}}
//	{"op":"jail","node":"a","peer":"b","on":true}
//	{"op":"wait-poll","node":"a"}                                until the node hangs in its map poll
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"tailscale.com/net/stun"
	"tailscale.com/tailcfg"
	"tailscale.com/tstest/integration"
	"tailscale.com/tstest/integration/testcontrol"
	"tailscale.com/types/logger"
)

// tb is what RunDERPAndSTUN needs of a test. The embedded interface is nil: a
// method that is not listed here panics, which shows at once.
type tb struct{ testing.TB }

func (tb) Helper()                   {}
func (tb) Cleanup(func())            {}
func (tb) Logf(f string, a ...any)   { log.Printf(f, a...) }
func (tb) Fatal(a ...any)            { log.Fatal(a...) }
func (tb) Fatalf(f string, a ...any) { log.Fatalf(f, a...) }
func (tb) Errorf(f string, a ...any) { log.Printf("error: "+f, a...) }

const answerTimeout = 20 * time.Second

type request struct {
	Op        string               `json:"op"`
	Node      string               `json:"node"`
	Peer      string               `json:"peer"`
	Routes    []netip.Prefix       `json:"routes"`
	URL       string               `json:"url"`
	On        bool                 `json:"on"`
	Key       string               `json:"key"`
	InSeconds int                  `json:"in_seconds"`
	Method    string               `json:"method"`
	Path      string               `json:"path"`
	Body      string               `json:"body"`
	Types     string               `json:"types"`
	IP        netip.Addr           `json:"ip"`
	Config    *tailcfg.DNSConfig   `json:"config"`
	Map       *tailcfg.MapResponse `json:"map"`
}

type server struct {
	ctl *testcontrol.Server

	mu    sync.Mutex
	pings map[string]chan pingHit // path below /testctl/ping/ => where its request is delivered
	seq   int
}

type pingHit struct {
	method string
	body   []byte
}

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "address of the control server")
	relay := flag.String("relay", "127.0.0.1", "address of DERP and STUN as nodes shall see it")
	relay2 := flag.String("relay2", "", "address of a second STUN server: with two, nodes can tell a hard NAT")
	authKey := flag.String("auth-key", "", "auth key that every node must bring")
	requireAuth := flag.Bool("require-auth", false, "send new nodes to a login URL")
	sameUser := flag.Bool("same-user", true, "all nodes belong to one user")
	magicDNS := flag.String("magic-dns", "tail.test", "MagicDNS domain, empty for none")
	verbose := flag.Bool("verbose", false, "log requests")
	flag.Parse()
	log.SetFlags(log.Lmicroseconds)
	log.SetOutput(os.Stderr)

	logf := logger.Discard
	if *verbose {
		logf = log.Printf
	}
	derp := integration.RunDERPAndSTUN(tb{}, logf, *relay)
	if *relay2 != "" {
		addSTUN(derp, *relay2)
	}
	ln, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatal(err)
	}
	s := &server{pings: map[string]chan pingHit{}, ctl: &testcontrol.Server{
		Logf:             logf,
		DERPMap:          derp,
		RequireAuth:      *requireAuth,
		RequireAuthKey:   *authKey,
		AllNodesSameUser: *sameUser,
		MagicDNSDomain:   *magicDNS,
		AllOnline:        true,
		ExplicitBaseURL:  "http://" + ln.Addr().String(),
		Verbose:          *verbose,
	}}
	if *magicDNS != "" {
		s.ctl.DNSConfig = &tailcfg.DNSConfig{Proxied: true, Domains: []string{*magicDNS}}
	}
	go func() { log.Fatal(http.Serve(ln, s)) }()

	node := derp.Regions[1].Nodes[0]
	out := json.NewEncoder(os.Stdout)
	out.Encode(map[string]any{"url": s.ctl.ExplicitBaseURL, "derp_port": node.DERPPort, "stun_port": node.STUNPort})
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 4<<20)
	for in.Scan() {
		var req request
		answer, err := any(nil), json.Unmarshal(in.Bytes(), &req)
		if err == nil {
			answer, err = s.do(&req)
		}
		if err != nil {
			out.Encode(map[string]any{"error": err.Error()})
		} else {
			out.Encode(map[string]any{"ok": answer})
		}
	}
}

// addSTUN serves STUN on an address of its own, as a region that is nobody's home.
func addSTUN(derp *tailcfg.DERPMap, ip string) {
	pc, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.ParseIP(ip)})
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		var buf [2048]byte
		for {
			n, from, err := pc.ReadFromUDPAddrPort(buf[:])
			if err != nil {
				log.Fatal(err)
			}
			if txid, err := stun.ParseBindingRequest(buf[:n]); err == nil {
				pc.WriteToUDPAddrPort(stun.Response(txid, from), from)
			}
		}
	}()
	derp.Regions[2] = &tailcfg.DERPRegion{RegionID: 2, RegionCode: "stun", Avoid: true, Nodes: []*tailcfg.DERPNode{{
		Name: "s2", RegionID: 2, HostName: ip, IPv4: ip, IPv6: "none", STUNOnly: true, STUNTestIP: ip,
		STUNPort: pc.LocalAddr().(*net.UDPAddr).Port,
	}}}
	derp.HomeParams = &tailcfg.DERPHomeParams{RegionScore: map[int]float64{2: 1000}}
}

// ServeHTTP keeps our own paths away from testcontrol, which panics on a path it does not know.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !strings.HasPrefix(r.URL.Path, "/testctl/ping/") {
		if strings.HasPrefix(r.URL.Path, "/auth/") || r.URL.Path == "/" || r.URL.Path == "/health" {
			w.WriteHeader(http.StatusOK) // a person may follow the login URL
			return
		}
		s.ctl.ServeHTTP(w, r)
		return
	}
	body, _ := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	s.mu.Lock()
	ch := s.pings[r.URL.Path]
	s.mu.Unlock()
	if ch == nil {
		http.NotFound(w, r)
		return
	}
	select {
	case ch <- pingHit{r.Method, body}:
	default:
	}
	w.WriteHeader(http.StatusOK)
}

func (s *server) node(name string) (*tailcfg.Node, error) {
	for _, n := range s.ctl.AllNodes() {
		if n.Hostinfo.Valid() && n.Hostinfo.Hostname() == name {
			return n, nil
		}
	}
	return nil, fmt.Errorf("no node named %q", name)
}

func (s *server) do(req *request) (any, error) {
	switch req.Op {
	case "nodes":
		return s.ctl.AllNodes(), nil
	case "complete-auth":
		if !s.ctl.CompleteAuth(req.URL) {
			return nil, errors.New("no such login in progress")
		}
		return true, nil
	case "require-auth":
		s.ctl.RequireAuth = req.On
		return true, nil
	case "require-auth-key":
		s.ctl.RequireAuthKey = req.Key
		return true, nil
	case "expire-all":
		s.ctl.SetExpireAllNodes(req.On)
		return true, nil
	case "dns":
		s.ctl.DNSConfig = req.Config
		for _, n := range s.ctl.AllNodes() {
			s.ctl.UpdateNode(n) // wakes the polls
		}
		return true, nil
	}
	n, err := s.node(req.Node)
	if err != nil {
		return nil, err
	}
	return s.doNode(req, n)
}

func (s *server) doNode(req *request, n *tailcfg.Node) (any, error) {
	ctx, cancel := context.WithTimeout(context.Background(), answerTimeout)
	defer cancel()
	switch req.Op {
	case "routes":
		s.ctl.SetSubnetRoutes(n.Key, req.Routes)
		return true, nil
	case "expire-node":
		for _, same := range s.ctl.AllNodes() { // after a key renewal there is an entry per key
			if same.ID == n.ID {
				same.KeyExpiry = time.Now().Add(time.Duration(req.InSeconds) * time.Second)
				s.ctl.UpdateNode(same)
			}
		}
		return true, nil
	case "wait-poll":
		return true, s.ctl.AwaitNodeInMapRequest(ctx, n.Key)
	case "jail":
		peer, err := s.node(req.Peer)
		if err != nil {
			return nil, err
		}
		s.ctl.SetJailed(n.Key, peer.Key, req.On)
		return true, nil
	case "raw-map":
		if !s.ctl.AddRawMapResponse(n.Key, req.Map) {
			return nil, errors.New("node is not polling")
		}
		return true, nil
	case "c2n":
		return s.c2n(ctx, req, n)
	case "ping":
		return s.ping(ctx, n, &tailcfg.PingRequest{Types: req.Types, IP: req.IP})
	case "head-ping":
		return s.ping(ctx, n, &tailcfg.PingRequest{})
	}
	return nil, fmt.Errorf("unknown op %q", req.Op)
}

func (s *server) c2n(ctx context.Context, req *request, n *tailcfg.Node) (any, error) {
	method := req.Method
	if method == "" {
		method = "POST"
	}
	hr, err := http.NewRequestWithContext(ctx, method, "http://c2n"+req.Path, bytes.NewReader([]byte(req.Body)))
	if err != nil {
		return nil, err
	}
	res, err := s.ctl.NodeRoundTripper(n.Key).RoundTrip(hr)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	return map[string]any{"status": res.StatusCode, "body": string(body)}, err
}

// ping asks node n for a ping and waits for the HTTP request in which it reports.
func (s *server) ping(ctx context.Context, n *tailcfg.Node, pr *tailcfg.PingRequest) (any, error) {
	ch := make(chan pingHit, 1)
	s.mu.Lock()
	s.seq++
	path := fmt.Sprintf("/testctl/ping/%d", s.seq)
	s.pings[path] = ch
	s.mu.Unlock()
	pr.URL = s.ctl.ExplicitBaseURL + path
	if !s.ctl.AddPingRequest(n.Key, pr) {
		return nil, errors.New("node is not polling")
	}
	select {
	case hit := <-ch:
		return map[string]any{"method": hit.method, "body": string(hit.body)}, nil
	case <-ctx.Done():
		return nil, errors.New("the node did not report")
	}
}
