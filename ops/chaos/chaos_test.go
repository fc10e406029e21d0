package chaos_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hotchoc/ops/chaos"
	"hotchoc/ops/stack"
)

// TestAShopThatBreaksAllTheTimeKeepsItsPromises is the small brother of `task chaos`: a stack of its own, a seed, and all
// kinds of faults but those that take a broker's start each.
func TestAShopThatBreaksAllTheTimeKeepsItsPromises(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes a minute")
	}
	dir, err := os.MkdirTemp("", "chaos")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil { // the servers' users have to get in
		t.Fatal(err)
	}
	bin, run := filepath.Join(dir, "bin"), filepath.Join(dir, "run")
	build := exec.Command("go", "build", "-race", "-o", bin+"/", "hotchoc/order/cmd/order", "hotchoc/menu/cmd/menu",
		"hotchoc/pay/cmd/pay", "hotchoc/make/cmd/make", "hotchoc/delivery/cmd/delivery", "hotchoc/ops/cmd/hotchoc")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the services: %v\n%s", err, out)
	}
	s, err := stack.Up(t.Context(), stack.Config{Dir: run, Bin: bin, Mode: "native", AnyPorts: true, Throwaway: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Down(context.Background(), true); err != nil {
			t.Error(err)
		}
	})
	r, err := chaos.Run(t.Context(), chaos.Config{
		Stack: s, Dir: run, Orders: 150, Seed: 11, Duration: 30 * time.Second, AllowZero: true, Out: t.Output(),
		Only: []chaos.Kind{
			chaos.KillService, chaos.StopService, chaos.PauseService, chaos.KillBroker, chaos.KillPostgres,
			chaos.GatewayFails, chaos.GatewayLoses, chaos.CourierFails, chaos.Poison, chaos.Duplicate, chaos.Reorder,
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	if err := r.Print(&text); err != nil {
		t.Fatal(err)
	}
	t.Log(text.String())
	if !r.OK {
		t.Errorf("%d violations, troubles: %s", len(r.Violations)+len(r.Audit.Violations), strings.Join(r.Trouble, "; "))
	}
	if r.Orders != 150 || r.Injected[chaos.KillService] == 0 || r.Guards["duplicates suppressed"] == 0 {
		t.Errorf("%d orders, %d kills, %d duplicates suppressed: that was no chaos", r.Orders, r.Injected[chaos.KillService], r.Guards["duplicates suppressed"])
	}
}
