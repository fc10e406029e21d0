package servers

import (
	"net"
	"net/url"
	"sync"
	"testing"
)

// Proxy stands between a client and a server, so that a test can take the server away and give it back.
type Proxy struct {
	listener net.Listener
	target   string

	mu     sync.Mutex
	thawed *sync.Cond
	down   bool
	frozen bool
	over   bool
	conns  map[net.Conn]struct{}
	watch  func(toServer bool, data []byte) (pass bool)
}

// NewProxy stands before the server of a URL, and is there at once.
func NewProxy(t testing.TB, server string) *Proxy {
	t.Helper()
	u, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{listener: l, target: u.Host, conns: map[net.Conn]struct{}{}}
	p.thawed = sync.NewCond(&p.mu)
	var loops sync.WaitGroup
	loops.Go(func() { p.accept(&loops) })
	t.Cleanup(func() {
		p.mu.Lock()
		p.over = true
		p.mu.Unlock()
		_ = l.Close()
		p.Down()
		loops.Wait()
	})
	return p
}

// URL is a URL of the server, by way of the proxy.
func (p *Proxy) URL(server string) string {
	u, err := url.Parse(server)
	if err != nil {
		panic(err)
	}
	u.Host = p.listener.Addr().String()
	return u.String()
}

// Down cuts all connections, and new ones at once.
func (p *Proxy) Down() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = true
	p.cut()
}

// Up lets new connections through.
func (p *Proxy) Up() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = false
}

// Cut cuts all connections; new ones are let through.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut()
}

func (p *Proxy) cut() {
	for c := range p.conns {
		_ = c.Close()
	}
	clear(p.conns)
	p.frozen = false
	p.thawed.Broadcast()
}

// Freeze lets nothing through any more, but cuts no connection: a server that hangs.
func (p *Proxy) Freeze() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.frozen = true
}

// Thaw ends Freeze: nothing was lost.
func (p *Proxy) Thaw() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.frozen = false
	p.thawed.Broadcast()
}

// Watch shows f all that passes, in pieces as they come; when f returns false, the piece does not pass and its connection
// is cut.
func (p *Proxy) Watch(f func(toServer bool, data []byte) (pass bool)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.watch = f
}

func (p *Proxy) accept(loops *sync.WaitGroup) {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", p.target)
		if err != nil {
			_ = client.Close()
			continue
		}
		p.mu.Lock()
		if p.down || p.over {
			p.mu.Unlock()
			_, _ = client.Close(), server.Close()
			continue
		}
		p.conns[client], p.conns[server] = struct{}{}, struct{}{}
		p.mu.Unlock()
		loops.Go(func() { p.copy(server, client, true) })
		loops.Go(func() { p.copy(client, server, false) })
	}
}

func (p *Proxy) copy(to, from net.Conn, toServer bool) {
	defer func() {
		_, _ = to.Close(), from.Close()
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.conns, to)
		delete(p.conns, from)
	}()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if err != nil || !p.pass(toServer, buf[:n]) {
			return
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

func (p *Proxy) pass(toServer bool, data []byte) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.frozen {
		p.thawed.Wait()
	}
	return p.watch == nil || p.watch(toServer, data)
}
