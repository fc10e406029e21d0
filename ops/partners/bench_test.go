package partners_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"hotchoc/ops/partners"
)

const benchConnections = 64

// BenchmarkCapture is one capture per operation, synced to the disk, over 64 connections that are kept alive. Server and
// clients share the machine; "wire" has the cheapest client there can be, "net-http" one as the pay service has.
func BenchmarkCapture(b *testing.B) {
	b.Run("wire", func(b *testing.B) { benchmark(b, wireClient) })
	b.Run("net-http", func(b *testing.B) { benchmark(b, httpClient) })
}

func benchmark(b *testing.B, client func(b *testing.B, addr string) func(key string) error) {
	server, err := partners.New(partners.Config{LedgerDir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	web := httptest.NewServer(server.Handler())
	defer func() {
		web.Close()
		server.Close()
	}()
	var clients []func(string) error
	for range benchConnections {
		clients = append(clients, client(b, web.Listener.Addr().String()))
	}
	b.ReportAllocs()
	b.ResetTimer()
	var next atomic.Int64
	var wg sync.WaitGroup
	for _, capture := range clients {
		wg.Go(func() {
			for {
				n := next.Add(1)
				if n > int64(b.N) {
					return
				}
				if err := capture(fmt.Sprintf("0199d7a0-0000-7000-8000-%012d/charge", n)); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "captures/s")
}

const benchBody = `{"amount":900,"currency":"EUR","token":"tok_ok","order":"0199d7a0-0000-7000-8000-000000000000"}`

func wireClient(b *testing.B, addr string) func(string) error {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { conn.Close() })
	in := bufio.NewReader(conn)
	var out bytes.Buffer
	return func(key string) error {
		out.Reset()
		fmt.Fprintf(&out, "PUT /captures/%s HTTP/1.1\r\nHost: partners\r\nContent-Length: %d\r\n\r\n%s",
			strings.ReplaceAll(key, "/", "%2F"), len(benchBody), benchBody)
		if _, err := conn.Write(out.Bytes()); err != nil {
			return err
		}
		status := ""
		length := 0
		for {
			line, err := in.ReadSlice('\n')
			if err != nil {
				return err
			}
			if status == "" {
				status = string(line)
			}
			if rest, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
				for _, c := range bytes.TrimSpace(rest) {
					length = length*10 + int(c-'0')
				}
			}
			if len(line) == 2 {
				break
			}
		}
		if _, err := in.Discard(length); err != nil {
			return err
		}
		if !strings.HasPrefix(status, "HTTP/1.1 200") {
			return fmt.Errorf("capture %s: %s", key, status)
		}
		return nil
	}
}

func httpClient(b *testing.B, addr string) func(string) error {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1}}
	b.Cleanup(client.CloseIdleConnections)
	return func(key string) error {
		req, err := http.NewRequest("PUT", "http://"+addr+"/captures/"+strings.ReplaceAll(key, "/", "%2F"), strings.NewReader(benchBody))
		if err != nil {
			return err
		}
		res, err := client.Do(req)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		if _, err := io.Copy(io.Discard, res.Body); err != nil {
			return err
		}
		if res.StatusCode != http.StatusOK {
			return fmt.Errorf("capture %s: %s", key, res.Status)
		}
		return nil
	}
}
