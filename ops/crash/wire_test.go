package crash_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/url"
	"sync"
	"testing"
)

// wire is the network between a service and the broker, which can be cut.
type wire struct {
	listener net.Listener
	broker   string

	mu    sync.Mutex
	links []*link
}

type link struct {
	client, server net.Conn
	hello          bytes.Buffer // the first that the client said: its name is in there
}

const helloMax = 4 << 10

func newWire(t *testing.T, broker string) *wire {
	t.Helper()
	u, err := url.Parse(broker)
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{broker: u.Host}
	if w.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.listener.Close() })
	go func() {
		for {
			client, err := w.listener.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", w.broker)
			if err != nil {
				_ = client.Close()
				continue
			}
			l := &link{client: client, server: server}
			w.mu.Lock()
			w.links = append(w.links, l)
			w.mu.Unlock()
			go func() {
				_, _ = io.Copy(client, server)
				l.cut()
			}()
			go func() {
				_, _ = io.Copy(io.MultiWriter(server, overhear{w, l}), client)
				l.cut()
			}()
		}
	}()
	return w
}

// address is where the broker is, by way of the wire.
func (w *wire) address() string { return w.listener.Addr().String() }

type overhear struct {
	w *wire
	l *link
}

func (o overhear) Write(data []byte) (int, error) {
	o.w.mu.Lock()
	defer o.w.mu.Unlock()
	if room := helloMax - o.l.hello.Len(); room > 0 {
		o.l.hello.Write(data[:min(room, len(data))])
	}
	return len(data), nil
}

func (l *link) cut() {
	_, _ = l.client.Close(), l.server.Close()
}

// cut breaks the connection of that name. There must have been one.
func (w *wire) cut(name string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	cut := 0
	for _, l := range w.links {
		if bytes.Contains(l.hello.Bytes(), []byte(name)) {
			l.cut()
			cut++
		}
	}
	w.links = nil
	if cut == 0 {
		return fmt.Errorf("there is no connection %q on the wire", name)
	}
	return nil
}
