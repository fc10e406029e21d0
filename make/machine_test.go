package making_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	making "hotchoc/make"
	"hotchoc/pkg/contract/shopv1"
)

func lines(skus ...string) []*shopv1.Line {
	var lines []*shopv1.Line
	for _, sku := range skus {
		lines = append(lines, &shopv1.Line{Sku: sku, Quantity: 1})
	}
	return lines
}

func TestMachineBrews(t *testing.T) {
	t.Parallel()
	got, err := making.Machine{}.Brew(context.Background(), "o1/brew", lines("classic", "dark"))
	if err != nil || got.Broken != "" {
		t.Errorf("got %+v, %v, want drinks", got, err)
	}
}

func TestLavaBreaksTheMachine(t *testing.T) {
	t.Parallel()
	for _, order := range [][]*shopv1.Line{lines("lava"), lines("classic", "lava")} {
		got, err := making.Machine{}.Brew(context.Background(), "o1/brew", order)
		if err != nil || got.Broken == "" {
			t.Errorf("got %+v, %v, want it broken", got, err)
		}
	}
}

func TestMachineTakesItsTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { // in a bubble with its own clock
		began := time.Now()
		if _, err := (making.Machine{BrewFor: time.Minute}).Brew(context.Background(), "o1/brew", lines("classic")); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took != time.Minute {
			t.Errorf("took %v, want a minute", took)
		}
	})
}

func TestMachineIsLeft(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		for range 2 { // while it brews, and before it begins
			_, err := making.Machine{BrewFor: time.Minute}.Brew(ctx, "o1/brew", lines("lava"))
			if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "o1/brew") {
				t.Errorf("got %v, want the context's error", err)
			}
		}
	})
}
