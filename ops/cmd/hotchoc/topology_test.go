package main

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"hotchoc/pkg/rabbit"
)

func finds(differences []rabbit.Difference, err error) *cobra.Command {
	return topologyDiff(func(*cobra.Command) ([]rabbit.Difference, error) { return differences, err })
}

func TestATopologyIsToldWithWhatDiffersAndWhatToDo(t *testing.T) {
	differences := []rabbit.Difference{
		{Kind: "queue", Name: "pay.retry.1s", Is: rabbit.Changed, Changes: []rabbit.Change{{What: "x-message-ttl", Declared: 1000}}, Why: "it waits for ever", Fix: "curl it && hotchoc topology apply"},
		{Kind: "binding", Name: "order.events -order.placed-> pay", Is: rabbit.Missing, Why: "it does not arrive", Fix: "hotchoc topology apply"},
		{Kind: "binding", Name: "order.events -order.placed-> make", Is: rabbit.Missing, Why: "it does not arrive", Fix: "hotchoc topology apply"},
	}
	const want = `changed  queue pay.retry.1s
         x-message-ttl is not set, not 1000
  why    it waits for ever
  fix    curl it && hotchoc topology apply
missing  binding order.events -order.placed-> pay
missing  binding order.events -order.placed-> make
  why    it does not arrive
  fix    hotchoc topology apply
`
	if out, code := runs(t, finds(differences, nil)); out != want || code != 1 {
		t.Errorf("exit code %d\n%s", code, out)
	}
	out, code := runs(t, finds(differences, nil), "-o", "json")
	var read []rabbit.Difference
	if err := json.Unmarshal([]byte(out), &read); err != nil || code != 1 || len(read) != 3 || read[1].Name != "order.events -order.placed-> pay" {
		t.Errorf("exit code %d, %v\n%s", code, err, out)
	}
}

func TestATopologyThatDoesNotDifferIsSaidToBeFine(t *testing.T) {
	if out, code := runs(t, finds(nil, nil)); code != 0 || !strings.Contains(out, "the topology is what the flows ask for") {
		t.Errorf("exit code %d\n%s", code, out)
	}
	if out, code := runs(t, finds(nil, nil), "-o", "json"); code != 0 || out != "[]\n" {
		t.Errorf("exit code %d\n%s", code, out)
	}
}

func TestATopologyThatCannotBeLookedAtIsNotSaidToDiffer(t *testing.T) {
	if out, code := runs(t, finds(nil, errors.New("nobody is there"))); code != 2 || !strings.Contains(out, "nobody is there") {
		t.Errorf("exit code %d\n%s", code, out)
	}
}
