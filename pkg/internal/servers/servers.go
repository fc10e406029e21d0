// Package servers gives tests a RabbitMQ and a Postgres: to each test a database or a virtual host of its own, which go
// when it ends, and a way to take either of them away for a while.
//
// The servers are those that TEST_AMQP_URL, TEST_MANAGEMENT_URL and TEST_DATABASE_URL name, as administrator. ./task test
// starts them.
package servers

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net/http"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// Main runs the tests of a package and fails when they leave a goroutine behind. For TestMain.
func Main(m *testing.M) {
	code := m.Run()
	http.DefaultClient.CloseIdleConnections()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// setting returns a variable of the environment that the tests cannot do without.
func setting(t testing.TB, name string) string {
	t.Helper()
	value := os.Getenv(name)
	if value == "" {
		t.Fatalf("%s is not set: run ./task test, which starts the servers that tests need", name)
	}
	return value
}

// unique makes a name that no other test has.
func unique() string {
	b := make([]byte, 6)
	_, _ = rand.Read(b)
	return "test_" + hex.EncodeToString(b)
}

// Patience is how long Eventually waits. It is long, for machines that are busy; nothing that works needs it. Whoever expects
// tests to fail can shorten it by TEST_PATIENCE.
var Patience = func() time.Duration {
	if d, err := time.ParseDuration(os.Getenv("TEST_PATIENCE")); err == nil {
		return d
	}
	return 30 * time.Second
}()

// Eventually waits until f has no complaint, and fails the test with the last one.
func Eventually(t testing.TB, f func() error) {
	t.Helper()
	deadline := time.Now().Add(Patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %v still: %v", Patience, err)
		}
		<-tick.C
	}
}
