package contract_test

import (
	"bytes"
	"crypto/sha256"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"hotchoc/pkg/contract"
)

// The corpus has bodies of every version of every event ever published, as <type>.v<version>[-<what>].json, and beside each
// of an old version, as ….read.json, what today's code makes of it. The index has the sums of all of them: what was published
// once does not change any more, so -update only ever adds.
const (
	corpus = "testdata/corpus"
	index  = corpus + "/index.txt"
)

var update = flag.Bool("update", false, "add to the corpus what is missing: samples of new versions, and how old ones are read")

// howTo is what to do about a missing sample.
const howTo = "go test ./pkg/contract -update"

type sample struct {
	file    string
	event   *contract.Event
	version int
	body    []byte
}

// read is the file that says how the sample is read.
func (s sample) read() string { return strings.TrimSuffix(s.file, ".json") + ".read.json" }

var sampleName = regexp.MustCompile(`^(.+)\.v(\d+)(-[a-z-]+)?\.json$`)

func samples(t *testing.T) (all []sample) {
	t.Helper()
	files, err := filepath.Glob(corpus + "/*.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if strings.HasSuffix(file, ".read.json") {
			continue
		}
		parts := sampleName.FindStringSubmatch(filepath.Base(file))
		if parts == nil {
			t.Fatalf("%s: a sample is named <type>.v<version>[-<what>].json", file)
		}
		e, ok := contract.Lookup(parts[1])
		if !ok {
			t.Fatalf("%s: %q is not declared any more, but it was published once", file, parts[1])
		}
		version, _ := strconv.Atoi(parts[2])
		all = append(all, sample{file, e, version, slurp(t, file)})
	}
	return all
}

func slurp(t *testing.T, file string) []byte {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.TrimSpace(raw)
}

func add(t *testing.T, file string, content []byte) {
	t.Helper()
	if err := os.WriteFile(file, append(content, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Logf("added %s", file)
}

func TestEveryVersionOfEveryEventHasASample(t *testing.T) {
	there := map[string]bool{}
	for _, s := range samples(t) {
		there[fmt.Sprint(s.event.Type, s.version)] = true
	}
	for _, e := range contract.All() {
		for v := 1; v <= e.Version; v++ {
			switch {
			case there[fmt.Sprint(e.Type, v)]:
			case *update && v == e.Version:
				body, err := contract.Marshal(contract.Example(e.Type))
				if err != nil {
					t.Fatal(err)
				}
				add(t, fmt.Sprintf("%s/%s.v%d.json", corpus, e.Type, v), body)
			default:
				t.Errorf("there is no sample of %s, version %d: %s", e.Type, v, howTo)
			}
		}
	}
}

func TestWhateverWasPublishedOnceCanBeRead(t *testing.T) {
	for _, s := range samples(t) {
		m, err := s.event.Decode(s.version, s.body)
		if err != nil {
			t.Errorf("%s: %v", s.file, err)
			continue
		}
		got, err := contract.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		want := s.body
		if s.version < s.event.Version {
			if _, err := os.Stat(s.read()); err != nil && *update {
				add(t, s.read(), got)
			}
			want = slurp(t, s.read())
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s is read as\n%s\nnot as\n%s", s.file, got, want)
		}
	}
}

func TestWhatWasPublishedOnceDoesNotChange(t *testing.T) {
	if _, err := os.Stat(index); err != nil && *update {
		add(t, index, []byte("# The sums of the samples. A line is added for each new one; none is ever changed."))
	}
	known := map[string]string{}
	for line := range strings.Lines(string(slurp(t, index))) {
		if sum, file, ok := strings.Cut(strings.TrimSpace(line), "  "); ok {
			known[file] = sum
		}
	}
	for _, s := range samples(t) {
		name, sum := filepath.Base(s.file), fmt.Sprintf("%x", sha256.Sum256(s.body))
		switch was, ok := known[name]; {
		case !ok && *update:
			add(t, index, fmt.Appendf(slurp(t, index), "\n%s  %s", sum, name))
		case !ok:
			t.Errorf("%s is not in the index: %s", s.file, howTo)
		case was != sum:
			t.Errorf("%s was changed, but that is how it was published: declare a new version instead", s.file)
		}
		delete(known, name)
	}
	for name := range known {
		t.Errorf("%s is gone, but it was published once", name)
	}
}
