package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestEveryMutantFitsTheCodeAndNamesATestThatThereIs(t *testing.T) {
	t.Chdir("../..")
	if len(Mutants) < 30 {
		t.Errorf("there are %d mutants", len(Mutants))
	}
	names := map[string]bool{}
	for _, m := range Mutants {
		if names[m.Name] {
			t.Errorf("%q is there twice", m.Name)
		}
		names[m.Name] = true
		if text, err := m.apply(); err != nil {
			t.Errorf("%q: %v", m.Name, err)
		} else if original, _ := os.ReadFile(m.File); string(text) == string(original) {
			t.Errorf("%q changes nothing", m.Name)
		}
		files, err := filepath.Glob(filepath.Join(m.Package, "*_test.go"))
		if err != nil {
			t.Fatal(err)
		}
		found := false
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			found = found || strings.Contains(string(text), "\nfunc "+m.Test+"(t *testing.T) {")
		}
		if !found {
			t.Errorf("%q: there is no %q in %s", m.Name, m.Test, m.Package)
		}
	}
}

func TestThePageOfTheMutantsIsUpToDate(t *testing.T) {
	page, err := os.ReadFile("../../docs/mutants.md")
	if err != nil {
		t.Fatal(err)
	}
	if string(page) != Page() {
		t.Error("docs/mutants.md is not what ops/mutants/mutants.go says: go run ./ops/mutants -page > docs/mutants.md")
	}
}
