package shop_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"hotchoc/ops/shop"
)

func TestTheChoreographyHoldsWhatItPromises(t *testing.T) {
	for _, problem := range shop.Graph().Verify() {
		t.Error(problem)
	}
}

func TestThePageOfTheFlowIsUpToDate(t *testing.T) {
	page, err := os.ReadFile("../../docs/flow.md")
	if err != nil {
		t.Fatal(err)
	}
	if string(page) != shop.Graph().Markdown() {
		t.Error("docs/flow.md is not what the flows say: run ./task flow")
	}
}

func TestTheDocumentedRetryPoliciesAreThoseOfTheFlows(t *testing.T) {
	text, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	var table strings.Builder
	for _, f := range shop.Flows() {
		for _, p := range f.Policies() {
			fmt.Fprintf(&table, "| %s | %s | `%s` |\n", f.Service, p.Step, p.Retry)
		}
	}
	if !strings.Contains(string(text), "| service | step | policy |\n|---|---|---|\n"+table.String()+"\n") {
		t.Errorf("docs/configuration.md does not have these policies:\n%s", table.String())
	}
}
