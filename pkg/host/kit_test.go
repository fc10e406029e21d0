package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"

	"hotchoc/pkg/internal/servers"
)

// TestMain lets this program stand in for a service's command, and fails when a goroutine is left at the end.
func TestMain(m *testing.M) {
	if os.Getenv("HOST_TEST_COMMAND") != "" {
		os.Exit(Main(os.Environ(), (*Config).Validate, command))
	}
	servers.Main(m)
}

// command is the life of a service that does nothing.
func command(ctx context.Context, _ Config) error {
	fmt.Println("running")
	<-ctx.Done()
	if os.Getenv("HOST_TEST_COMMAND") == "fails" {
		return errors.New("it came to a bad end")
	}
	return nil
}
