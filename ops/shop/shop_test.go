package shop_test

import (
	"os"
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
