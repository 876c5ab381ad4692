// quicpeer is HTTP/3 of quic-go, so that a real QUIC sender and receiver go through the exit node.
//
//	quicpeer serve CERT KEY ADDR:PORT ...    GET /ip says whence, GET /blob/BYTES sends so many, POST /upload counts
//	quicpeer get CERT URL                    prints status, protocol, length and SHA-256 of the page
//	quicpeer post CERT URL BYTES             sends so many bytes and prints the answer
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

const block = 1 << 16

// body repeats nowhere within 256 blocks, so what is lost, doubled or misplaced changes the sum.
func body(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i/block)
	}
	return b
}

func serve(cert, key string, addrs []string) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /ip", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, r.RemoteAddr[:strings.LastIndexByte(r.RemoteAddr, ':')])
	})
	mux.HandleFunc("GET /blob/{n}", func(w http.ResponseWriter, r *http.Request) {
		n, err := strconv.Atoi(r.PathValue("n"))
		if err != nil || n < 0 || n > 1<<28 {
			http.Error(w, "a number of bytes is wanted", http.StatusBadRequest)
			return
		}
		w.Write(body(n))
	})
	mux.HandleFunc("POST /upload", func(w http.ResponseWriter, r *http.Request) {
		h := sha256.New()
		n, err := io.Copy(h, r.Body)
		fmt.Fprintf(w, "%d %x %v\n", n, h.Sum(nil), err)
	})
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return err
	}
	ended := make(chan error)
	for _, addr := range addrs {
		s := &http3.Server{Addr: addr, Handler: mux,
			TLSConfig: http3.ConfigureTLSConfig(&tls.Config{Certificates: []tls.Certificate{pair}})}
		go func() { ended <- s.ListenAndServe() }()
	}
	return <-ended
}

func ask(cert, method, url string, sent []byte) error {
	pem, err := os.ReadFile(cert)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return fmt.Errorf("%s holds no certificate", cert)
	}
	// quic-go's own 1280 bytes do not fit a tailnet's MTU of 1280; 1200 is what RFC 9000 section 14.1 asks for.
	config := &quic.Config{HandshakeIdleTimeout: 10 * time.Second, InitialPacketSize: 1200}
	t := &http3.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, QUICConfig: config}
	defer t.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(sent))
	if err != nil {
		return err
	}
	r, err := t.RoundTrip(req)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	got, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	if len(got) < 200 {
		fmt.Printf("%s", got)
	}
	fmt.Printf("%d %s %d %x\n", r.StatusCode, r.Proto, len(got), sha256.Sum256(got))
	return nil
}

func main() {
	log.SetFlags(0)
	args := os.Args[1:]
	var err error
	switch {
	case len(args) >= 4 && args[0] == "serve":
		err = serve(args[1], args[2], args[3:])
	case len(args) == 3 && args[0] == "get":
		err = ask(args[1], "GET", args[2], nil)
	case len(args) == 4 && args[0] == "post":
		n, _ := strconv.Atoi(args[3])
		err = ask(args[1], "POST", args[2], body(n))
	default:
		log.Fatal("usage: quicpeer serve CERT KEY ADDR:PORT ... | get CERT URL | post CERT URL BYTES")
	}
	if err != nil {
		log.Fatal("quicpeer: ", err)
	}
}
