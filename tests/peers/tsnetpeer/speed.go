package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"tailscale.com/net/netns"
	"tailscale.com/tsnet"
)

// speed is bench/speed on tsnet: the same command line, the same habits, the same lines of figures.
//
//	tsnetpeer speed serve|dial --login-server URL --state DIR --hostname NAME [--to IP:PORT] [--secs N] [-n STREAMS] [-R|-L|-C]
func speed(args []string) {
	mode := args[0]
	fs := flag.NewFlagSet("speed", flag.ExitOnError)
	control := fs.String("login-server", "", "control URL")
	dir := fs.String("state", "", "state directory")
	hostname := fs.String("hostname", "speed", "host name")
	to := fs.String("to", "", "server")
	secs := fs.Float64("secs", 5, "seconds")
	streams := fs.Int("n", 1, "streams")
	receive := fs.Bool("R", false, "receive")
	latency := fs.Bool("L", false, "latency")
	connect := fs.Bool("C", false, "connections")
	fs.Parse(args[1:])
	netns.SetEnabled(false)
	s := &tsnet.Server{ControlURL: *control, Dir: *dir, Hostname: *hostname, AuthKey: os.Getenv("TS_AUTHKEY"),
		Logf: func(string, ...any) {}}
	ctx, cancel := context.WithTimeout(context.Background(), stepTimeout)
	st, err := s.Up(ctx)
	cancel()
	if err != nil {
		log.Fatal(err)
	}
	if mode == "serve" {
		speedServe(s, st.TailscaleIPs[0].String())
		return
	}
	speedWaitDirect(s, *to)
	var bytes, done atomic.Int64
	var stop atomic.Bool
	n := *streams
	samples := make([]time.Duration, 0, 1<<20)
	if *latency {
		n--
		c := speedDial(s, *to, "E")
		go func() {
			b := []byte{'x'}
			for !stop.Load() {
				start := time.Now()
				if _, err := c.Write(b); err != nil {
					return
				}
				if _, err := io.ReadFull(c, b); err != nil {
					return
				}
				if len(samples) < cap(samples) {
					samples = append(samples, time.Since(start))
				}
			}
		}()
	}
	if *connect {
		for range 16 {
			go func() {
				for !stop.Load() {
					ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
					c, err := s.Dial(ctx, "tcp", *to)
					cancel()
					if err != nil {
						continue
					}
					c.Write([]byte("Ex"))
					if _, err := io.ReadFull(c, make([]byte, 1)); err == nil {
						done.Add(1)
					}
					c.Close()
				}
			}()
		}
		n = 0
	}
	for range n {
		what := "S"
		if *receive {
			what = "R"
		}
		c := speedDial(s, *to, what)
		go func() {
			buf := make([]byte, 64<<10)
			for !stop.Load() {
				var k int
				var err error
				if *receive {
					k, err = c.Read(buf)
				} else {
					k, err = c.Write(buf)
				}
				bytes.Add(int64(k))
				if err != nil {
					return
				}
			}
		}()
	}
	time.Sleep(200 * time.Millisecond)
	start, cpu, b0, d0, s0 := time.Now(), speedCPU(), bytes.Load(), done.Load(), len(samples)
	time.Sleep(time.Duration(*secs * float64(time.Second)))
	took, used := time.Since(start).Seconds(), speedCPU()-cpu
	moved, conns, rss := bytes.Load()-b0, done.Load()-d0, speedRSS()
	stop.Store(true)
	if *latency {
		time.Sleep(100 * time.Millisecond)
		got := slices.Clone(samples[s0:])
		slices.Sort(got)
		if len(got) > 0 {
			fmt.Printf("%d round trips p50 %d us p99 %d us\n", len(got), got[len(got)/2].Microseconds(), got[len(got)*99/100].Microseconds())
		}
	}
	if *connect {
		fmt.Printf("%.0f connections/s\n", float64(conns)/took)
	}
	if n > 0 {
		fmt.Printf("%d streams %.2f Gbit/s\n", n, float64(moved)*8/took/1e9)
	}
	fmt.Printf("rss %.1f MB cpu %.2f s in %.2f s\n", rss, used, took)
	os.Exit(0)
}

func speedServe(s *tsnet.Server, ip string) {
	ln, err := s.Listen("tcp", ":5001")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s:5001\n", ip)
	for {
		c, err := ln.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go func() {
			defer c.Close()
			what := make([]byte, 1)
			if _, err := io.ReadFull(c, what); err != nil {
				return
			}
			buf := make([]byte, 64<<10)
			for {
				var err error
				n := len(buf)
				if what[0] != 'R' {
					n, err = c.Read(buf)
				}
				if err == nil && what[0] != 'S' {
					_, err = c.Write(buf[:n])
				}
				if err != nil {
					return
				}
			}
		}()
	}
}

func speedDial(s *tsnet.Server, to, what string) net.Conn {
	ctx, cancel := context.WithTimeout(context.Background(), stepTimeout)
	defer cancel()
	c, err := s.Dial(ctx, "tcp", to)
	if err != nil {
		log.Fatal(err)
	}
	c.Write([]byte(what))
	return c
}

func speedWaitDirect(s *tsnet.Server, to string) {
	lc, err := s.LocalClient()
	if err != nil {
		log.Fatal(err)
	}
	ip, _, _ := net.SplitHostPort(to)
	c := speedDial(s, to, "E")
	defer c.Close()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		c.Write([]byte("x"))
		io.ReadFull(c, make([]byte, 1))
		st, err := lc.Status(context.Background())
		if err != nil {
			continue
		}
		for _, p := range st.Peer {
			for _, a := range p.TailscaleIPs {
				if a.String() == ip && p.CurAddr != "" {
					return
				}
			}
		}
	}
	fmt.Fprintln(os.Stderr, "speed: no direct path")
}

func speedCPU() float64 {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return float64(u.Utime.Sec+u.Stime.Sec) + float64(u.Utime.Usec+u.Stime.Usec)/1e6
}

func speedRSS() float64 {
	text, _ := os.ReadFile("/proc/self/status")
	for _, line := range strings.Split(string(text), "\n") {
		var kb float64
		if _, err := fmt.Sscanf(line, "VmRSS: %f", &kb); err == nil {
			return kb / 1024
		}
	}
	return 0
}
