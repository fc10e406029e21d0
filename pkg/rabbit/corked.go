package rabbit

import (
	"bufio"
	"net"
	"sync"
)

const (
	corkedMax = 256 << 10 // bytes that wait to be sent; who writes more waits
	readMax   = 64 << 10  // bytes that one read takes at most
)

// corked is a connection that sends what was written while it was sending all at once. The client flushes every message;
// so a batch takes a few system calls and packets, and the broker wakes up as often, instead of once for each message. There
// is no timer: a message that comes alone goes at once. An error shows at the next write; whether a message arrived is said
// by its confirm alone.
type corked struct {
	net.Conn
	in *bufio.Reader

	mu      sync.Mutex
	changed *sync.Cond
	out     []byte
	err     error // why nothing is sent any more
}

func newCorked(conn net.Conn) *corked {
	c := &corked{Conn: conn, in: bufio.NewReaderSize(conn, readMax)}
	c.changed = sync.NewCond(&c.mu)
	go c.send()
	return c
}

func (c *corked) Read(p []byte) (int, error) { return c.in.Read(p) }

func (c *corked) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.out) >= corkedMax && c.err == nil {
		c.changed.Wait()
	}
	if c.err != nil {
		return 0, c.err
	}
	c.out = append(c.out, p...)
	c.changed.Broadcast()
	return len(p), nil
}

// send is the one goroutine that writes to the socket, until that fails or the connection is closed.
func (c *corked) send() {
	var sent []byte
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.err == nil {
		if len(c.out) == 0 {
			c.changed.Wait()
			continue
		}
		sent, c.out = c.out, sent[:0]
		c.mu.Unlock()
		_, err := c.Conn.Write(sent)
		c.mu.Lock()
		if c.err == nil {
			c.err = err
		}
		c.changed.Broadcast()
	}
}

// Close gives up what was not sent: who closes in good order has had the broker's answer.
func (c *corked) Close() error {
	c.mu.Lock()
	if c.err == nil {
		c.err = net.ErrClosed
	}
	c.changed.Broadcast()
	c.mu.Unlock()
	return c.Conn.Close()
}
