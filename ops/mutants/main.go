// Command mutants puts one mistake after the other into the code, in a copy that only the compiler sees, and fails when a
// test does not catch it: ./task mutants. The mistakes are in mutants.go, each with the test that has to catch it.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// limit is how long the test of one mutant may take. One that hangs is an error, not a catch.
const limit = 3 * time.Minute

func main() {
	only := flag.String("run", "", "only the mutants whose name matches this regular expression")
	page := flag.Bool("page", false, "print docs/mutants.md and run nothing")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if *page {
		fmt.Print(Page())
		return
	}
	which, err := regexp.Compile(*only)
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutants: -run:", err)
		os.Exit(2)
	}
	survived, err := run(ctx, which)
	switch {
	case err != nil:
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(2)
	case survived > 0:
		fmt.Printf("%d mutants survived: their tests do not show what they say.\n", survived)
		os.Exit(1)
	}
	fmt.Println("Every mutant was caught.")
}

// run tries the mutants whose names match. An error means that the result is worth nothing.
func run(ctx context.Context, which *regexp.Regexp) (survived int, err error) {
	var chosen []Mutant
	for _, m := range Mutants {
		if which.MatchString(m.Name) {
			chosen = append(chosen, m)
		}
	}
	sound := map[string]bool{} // tests that pass without a mutant
	for i, m := range chosen {
		began := time.Now()
		if key := m.Package + " " + m.Test; !sound[key] {
			if out, failed, err := test(ctx, m, ""); err != nil || failed {
				return survived, fmt.Errorf("%s of %s fails without any mutant, %w:\n%s", m.Test, m.Package, err, out)
			}
			sound[key] = true
		}
		out, caught, err := try(ctx, m)
		if err != nil {
			return survived, fmt.Errorf("%s: %w\n%s", m.Name, err, out)
		}
		verdict := "caught by"
		if !caught {
			survived++
			verdict = "SURVIVED"
		}
		fmt.Printf("%2d of %d  %5.1f s  %-60s %s %s\n", i+1, len(chosen), time.Since(began).Seconds(), m.Name, verdict, m.Test)
	}
	return survived, nil
}

// try tests with one mutant in place.
func try(ctx context.Context, m Mutant) (output string, caught bool, err error) {
	text, err := m.apply()
	if err != nil {
		return "", false, err
	}
	dir, err := os.MkdirTemp("", "mutant")
	if err != nil {
		return "", false, err
	}
	defer os.RemoveAll(dir)
	original, err := filepath.Abs(m.File)
	if err != nil {
		return "", false, err
	}
	copied := filepath.Join(dir, "mutant.go")
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{original: copied}})
	if err != nil {
		return "", false, err
	}
	file := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(copied, text, 0o600); err != nil {
		return "", false, err
	}
	if err := os.WriteFile(file, overlay, 0o600); err != nil {
		return "", false, err
	}
	return test(ctx, m, file)
}

// test runs the mutant's test; an overlay has its mistake. A mutant that does not compile is an error, as is a test that
// there is not.
func test(ctx context.Context, m Mutant, overlay string) (output string, failed bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	args := []string{"test", "-count=1", "-run", "^" + m.Test + "$"}
	if overlay != "" {
		args = append(args, "-overlay", overlay)
	}
	cmd := exec.CommandContext(ctx, "go", append(args, m.Package)...)
	if overlay != "" {
		cmd.Env = append(os.Environ(), "TEST_PATIENCE=5s") // most tests fail by waiting in vain
	}
	out, err := cmd.CombinedOutput()
	switch {
	case ctx.Err() != nil:
		return string(out), false, fmt.Errorf("no end after %v", limit)
	case bytes.Contains(out, []byte("[build failed]")), bytes.Contains(out, []byte("[setup failed]")):
		return string(out), false, fmt.Errorf("it does not compile")
	case bytes.Contains(out, []byte("no tests to run")):
		return string(out), false, fmt.Errorf("there is no %s in %s", m.Test, m.Package)
	}
	return string(out), err != nil, nil
}

// apply makes the mistake in the text of the file.
func (m Mutant) apply() ([]byte, error) {
	text, err := os.ReadFile(m.File)
	if err != nil {
		return nil, err
	}
	if n := strings.Count(string(text), m.From); n != 1 {
		return nil, fmt.Errorf("%s has %d times what is to be replaced, not once: bring the mutant up to date", m.File, n)
	}
	return []byte(strings.Replace(string(text), m.From, m.To, 1)), nil
}

// Page is docs/mutants.md.
func Page() string {
	var b strings.Builder
	b.WriteString(`# Seeded bugs

Tests are tested, too. ` + "`./task mutants`" + ` makes these mistakes one by one, in a copy that only the compiler sees, and fails unless the
test beside each catches it. (Generated: ` + "`go run ./ops/mutants -page`" + `.)

| mistake | in | caught by |
|---|---|---|
`)
	for _, m := range Mutants {
		fmt.Fprintf(&b, "| %s | `%s` | `%s` `%s` |\n", m.Name, m.File, m.Package, m.Test)
	}
	return b.String()
}
