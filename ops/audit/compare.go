package audit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// differencesMax is how many differences of two documents are told.
const differencesMax = 3

// compare tells in what a document of a table differs from what its events fold to; "" if in nothing. Lists of texts are
// compared as sets: in which order a view saw things is nothing that it promises.
func compare(table, folded []byte) string {
	if bytes.Equal(table, folded) {
		return ""
	}
	t, err := decode(table)
	if err != nil {
		return fmt.Sprintf("it is no JSON: %v", err)
	}
	f, err := decode(folded)
	if err != nil {
		return fmt.Sprintf("the fold is no JSON: %v", err)
	}
	found := differences("", t, f, nil)
	if len(found) > differencesMax {
		found = append(found[:differencesMax], fmt.Sprintf("and %d more", len(found)-differencesMax))
	}
	return strings.Join(found, "; ")
}

func decode(doc []byte) (v any, err error) {
	d := json.NewDecoder(bytes.NewReader(doc))
	d.UseNumber()
	return v, d.Decode(&v)
}

func differences(path string, table, folded any, found []string) []string {
	switch t := table.(type) {
	case map[string]any:
		if f, ok := folded.(map[string]any); ok {
			for _, key := range sorted(merge(t, f)) {
				found = differences(strings.TrimPrefix(path+"."+key, "."), t[key], f[key], found)
			}
			return found
		}
	case []any:
		f, ok := folded.([]any)
		if ok && texts(t) && texts(f) {
			byText := func(a, b any) int { return strings.Compare(a.(string), b.(string)) }
			t, f = slices.Clone(t), slices.Clone(f)
			slices.SortFunc(t, byText)
			slices.SortFunc(f, byText)
		}
		if ok && len(t) == len(f) {
			for i := range t {
				found = differences(fmt.Sprintf("%s[%d]", path, i), t[i], f[i], found)
			}
			return found
		}
	default:
		if table == folded {
			return found
		}
	}
	return append(found, fmt.Sprintf("%s is %s, should be %s", or(path, "it"), text(table), text(folded)))
}

func merge(a, b map[string]any) map[string]any {
	keys := map[string]any{}
	for _, m := range []map[string]any{a, b} {
		for key := range m {
			keys[key] = nil
		}
	}
	return keys
}

func texts(list []any) bool {
	return !slices.ContainsFunc(list, func(v any) bool { _, ok := v.(string); return !ok })
}

// text shows a value, not too long.
func text(v any) string {
	if v == nil {
		return "missing"
	}
	b, _ := json.Marshal(v)
	if len(b) > 200 {
		b = append(b[:200:200], "…"...)
	}
	return string(b)
}

func or(a, b string) string {
	if a == "" {
		return b
	}
	return a
}
