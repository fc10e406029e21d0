package rabbit

import (
	"bytes"
	"errors"
	"io"
	"net"
	"runtime"
	"testing"
	"testing/iotest"
)

// slow is the far end of a connection that takes one write when it is told to.
type slow struct {
	net.Conn
	writes chan []byte
	fail   chan error
}

func (s *slow) Write(p []byte) (int, error) {
	select {
	case s.writes <- bytes.Clone(p):
		return len(p), nil
	case err := <-s.fail:
		return 0, err
	}
}

func corkedOn(t *testing.T) (*corked, *slow) {
	t.Helper()
	near, far := net.Pipe()
	s := &slow{Conn: near, writes: make(chan []byte), fail: make(chan error)}
	c := newCorked(s)
	t.Cleanup(func() { _, _ = c.Close(), far.Close() })
	return c, s
}

func TestWhatIsWrittenDuringAWriteGoesWithTheNextOne(t *testing.T) {
	t.Parallel()
	c, far := corkedOn(t)
	write := func(text string) {
		t.Helper()
		if n, err := c.Write([]byte(text)); n != len(text) || err != nil {
			t.Fatal(n, err)
		}
	}
	write("a")
	if got := <-far.writes; string(got) != "a" { // alone, at once
		t.Fatalf("got %q", got)
	}
	write("b")
	underWay(c)
	write("c")
	write("d")
	if got := <-far.writes; string(got) != "b" {
		t.Fatalf("got %q", got)
	}
	if got := <-far.writes; string(got) != "cd" {
		t.Fatalf("got %q", got)
	}
}

// underWay waits until all that was written is being sent.
func underWay(c *corked) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.out) > 0 {
		c.mu.Unlock()
		runtime.Gosched()
		c.mu.Lock()
	}
}

func TestWhoWritesMoreThanCanBeSentWaits(t *testing.T) {
	t.Parallel()
	c, far := corkedOn(t)
	large := make([]byte, corkedMax)
	_, _ = c.Write(large)
	underWay(c)
	_, _ = c.Write(large)
	wrote := make(chan struct{})
	go func() {
		_, _ = c.Write([]byte("x"))
		close(wrote)
	}()
	<-far.writes
	// What had to wait for room is not among what had not.
	if second, third := len(<-far.writes), len(<-far.writes); second != corkedMax || third != 1 {
		t.Errorf("%d and %d bytes came", second, third)
	}
	<-wrote
}

func TestAFailedWriteIsToldToTheNextAndToThoseThatWait(t *testing.T) {
	t.Parallel()
	c, far := corkedOn(t)
	_, _ = c.Write([]byte("a"))
	underWay(c)
	_, _ = c.Write(make([]byte, corkedMax))
	waited := make(chan error)
	go func() {
		_, err := c.Write([]byte("x"))
		waited <- err
	}()
	far.fail <- iotest.ErrTimeout
	if err := <-waited; !errors.Is(err, iotest.ErrTimeout) {
		t.Errorf("who waited is told %v", err)
	}
	if _, err := c.Write([]byte("y")); !errors.Is(err, iotest.ErrTimeout) {
		t.Errorf("who comes later is told %v", err)
	}
}

func TestAClosedConnectionTakesNothing(t *testing.T) {
	t.Parallel()
	c, _ := corkedOn(t)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.ErrClosedPipe) {
		t.Error(err)
	}
}
