package upstream_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"rackgateway/pkg/upstream"
)

// The benchmark's rack and load generator are this test binary run again, so that the
// processor time measured is the proxy's alone. Both speak raw bytes and cost little.
const roleVariable = "UPSTREAM_BENCH_ROLE"

func TestMain(m *testing.M) {
	switch os.Getenv(roleVariable) {
	case "rack":
		benchRack()
	case "load":
		benchLoad()
	default:
		os.Exit(m.Run())
	}
}

// benchRack answers every request with 2 KB. It prints its address, and ends with
// its standard input.
func benchRack() {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(ln.Addr())
	answer := []byte("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\n" +
		"Request-Id: 0123456789ab\r\nX-Content-Type-Options: nosniff\r\nX-Frame-Options: DENY\r\nContent-Length: 2048\r\n\r\n" +
		strings.Repeat("x", 2048))
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				buf := make([]byte, 8<<10)
				have := 0
				for {
					n, err := c.Read(buf[have:])
					if err != nil {
						return
					}
					if have += n; !bytes.HasSuffix(buf[:have], []byte("\r\n\r\n")) {
						continue
					}
					have = 0
					if _, err := c.Write(answer); err != nil {
						return
					}
				}
			}()
		}
	}()
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// benchLoad reads "ADDRESS CONNECTIONS REQUESTS" lines, makes that many requests for
// each, and prints a line when they are done.
func benchLoad() {
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		var address string
		var connections, requests int
		if _, err := fmt.Sscan(in.Text(), &address, &connections, &requests); err != nil {
			log.Fatal(err)
		}
		var left atomic.Int64
		left.Store(int64(requests))
		var all sync.WaitGroup
		for range connections {
			all.Go(func() {
				if left.Load() <= 0 {
					return
				}
				c, err := net.Dial("tcp", address)
				if err != nil {
					log.Fatal(err)
				}
				defer c.Close()
				request := []byte("GET /apps HTTP/1.1\r\nHost: " + address + "\r\nUser-Agent: Go-http-client/1.1\r\n" +
					"Authorization: Basic Y29udm94OnBhc3N3b3Jk\r\nVersion: 3.0\r\nAccept-Encoding: gzip\r\n\r\n")
				buf := make([]byte, 16<<10)
				for left.Add(-1) >= 0 {
					if _, err := c.Write(request); err != nil {
						log.Fatal(err)
					}
					have, want := 0, -1
					for want < 0 || have < want {
						n, err := c.Read(buf[have:])
						if err != nil {
							log.Fatalf("load: after %d bytes: %v", have, err)
						}
						have += n
						if i := bytes.Index(buf[:have], []byte("\r\n\r\n")); want < 0 && i >= 0 {
							if !bytes.HasPrefix(buf, []byte("HTTP/1.1 200 ")) {
								log.Fatalf("load: %q", buf[:have])
							}
							want = i + 4 + 2048
						}
					}
				}
			})
		}
		all.Wait()
		fmt.Println("done")
	}
}

// child starts this binary in a role and returns its input and output.
func child(b *testing.B, role string) (io.Writer, *bufio.Reader) {
	b.Helper()
	cmd := exec.CommandContext(b.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), roleVariable+"="+role)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	return in, bufio.NewReader(out)
}

type bufferPool struct{ sync.Pool }

func (p *bufferPool) Get() []byte {
	if b, ok := p.Pool.Get().(*[]byte); ok {
		return *b
	}
	return make([]byte, 32<<10)
}

func (p *bufferPool) Put(b []byte) { p.Pool.Put(&b) }

// BenchmarkReverseProxy compares httputil.ReverseProxy over a tuned http.Transport with
// the same over this package's: GET of 2 KB over loopback from 32 and 256 connections. Besides the
// time for a request it reports the processor time that the proxy's process took for it.
func BenchmarkReverseProxy(b *testing.B) {
	_, rack := child(b, "rack")
	address, err := rack.ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	origin := &url.URL{Scheme: "http", Host: strings.TrimSpace(address)}
	order, done := child(b, "load")

	tuned := &http.Transport{
		MaxIdleConnsPerHost: 256,
		IdleConnTimeout:     50 * time.Second,
		DisableCompression:  true,
	}
	defer tuned.CloseIdleConnections()
	lean, err := upstream.New(upstream.Config{Origin: origin})
	if err != nil {
		b.Fatal(err)
	}
	defer lean.CloseIdleConnections()

	for _, connections := range []int{32, 256} {
		for _, transport := range []struct {
			name string
			rt   http.RoundTripper
		}{{"net-http", tuned}, {"upstream", lean}} {
			b.Run(transport.name+"/"+strconv.Itoa(connections), func(b *testing.B) {
				ln, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					b.Fatal(err)
				}
				server := &http.Server{
					ReadHeaderTimeout: 10 * time.Second,
					Handler: &httputil.ReverseProxy{
						Transport:  transport.rt,
						BufferPool: &bufferPool{},
						Rewrite:    func(r *httputil.ProxyRequest) { r.SetURL(origin) },
					},
				}
				served := make(chan error, 1)
				go func() { served <- server.Serve(ln) }()
				b.ResetTimer()
				before := processorTime(b)
				if _, err := fmt.Fprintln(order, ln.Addr(), connections, b.N); err != nil {
					b.Fatal(err)
				}
				if _, err := done.ReadString('\n'); err != nil {
					b.Fatal(err)
				}
				used := processorTime(b) - before
				b.StopTimer()
				b.ReportMetric(float64(used.Nanoseconds())/1e3/float64(b.N), "cpu-µs/op")
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "req/s")
				_ = server.Close()
				<-served
			})
		}
	}
}

// BenchmarkTransfer sends and fetches 64 MiB through the same two proxies.
func BenchmarkTransfer(b *testing.B) {
	const size = 64 << 20
	piece := make([]byte, 64<<10)
	rack := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, r.Body, make([]byte, 64<<10))
		if r.Method == http.MethodGet {
			for range size / len(piece) {
				_, _ = w.Write(piece)
			}
		}
	}))
	defer rack.Close()
	origin, err := url.Parse(rack.URL)
	if err != nil {
		b.Fatal(err)
	}
	tuned := &http.Transport{DisableCompression: true}
	defer tuned.CloseIdleConnections()
	lean, err := upstream.New(upstream.Config{Origin: origin})
	if err != nil {
		b.Fatal(err)
	}
	defer lean.CloseIdleConnections()
	for _, method := range []string{"POST", "GET"} {
		for _, transport := range []struct {
			name string
			rt   http.RoundTripper
		}{{"net-http", tuned}, {"upstream", lean}} {
			b.Run(transport.name+"/"+method, func(b *testing.B) {
				proxy := httptest.NewServer(&httputil.ReverseProxy{
					Transport:  transport.rt,
					BufferPool: &bufferPool{},
					Rewrite:    func(r *httputil.ProxyRequest) { r.SetURL(origin) },
				})
				defer proxy.Close()
				client := &http.Transport{DisableCompression: true}
				defer client.CloseIdleConnections()
				b.SetBytes(size)
				for b.Loop() {
					req, err := http.NewRequestWithContext(b.Context(), method, proxy.URL, nil)
					if err != nil {
						b.Fatal(err)
					}
					if method == http.MethodPost {
						req.Body = io.NopCloser(io.LimitReader(zeros{}, size))
						req.ContentLength = size
					}
					resp, err := client.RoundTrip(req)
					if err != nil {
						b.Fatal(err)
					}
					if _, err := io.Copy(io.Discard, resp.Body); err != nil {
						b.Fatal(err)
					}
					_ = resp.Body.Close()
				}
			})
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
