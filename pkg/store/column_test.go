package store_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jmoiron/sqlx"

	"hotchoc/pkg/internal/servers"
	"hotchoc/pkg/store"
)

// TestAColumnArrivesAsItWasSent has the server read each kind of column, and say as text what it understood.
func TestAColumnArrivesAsItWasSent(t *testing.T) {
	t.Parallel()
	db := servers.Open(t, servers.NewDatabase(t).URL)
	id := uuid.MustParse("0198a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b")
	for name, test := range map[string]struct {
		column any
		typ    string
		want   []string
	}{
		"none":          {store.Texts(), "text", nil},
		"texts":         {store.Texts("", "a", `"q\u0022"`, "{x,NULL}", "NULL", "grüße ☕\n\t"), "text", []string{"", "a", `"q\u0022"`, "{x,NULL}", "NULL", "grüße ☕\n\t"}},
		"UUIDs":         {store.UUIDs(id, uuid.Nil), "uuid", []string{id.String(), uuid.Nil.String()}},
		"UUIDs or null": {store.OrNull(uuid.Nil, id), "uuid", []string{"nothing", id.String()}},
		"whole numbers": {store.Int4s(0, -1, 1<<31-1, -1<<31), "int", []string{"0", "-1", "2147483647", "-2147483648"}},
		"large numbers": {store.Int8s(0, -1, 1<<62), "bigint", []string{"0", "-1", "4611686018427387904"}},
		"times": {
			store.Times(time.Date(2026, 12, 6, 16, 45, 0, 123456789, time.UTC), time.Date(1999, 12, 31, 23, 59, 59, 0, time.FixedZone("", 3600))),
			"timestamptz", []string{"2026-12-06 16:45:00.123456", "1999-12-31 22:59:59"},
		},
		"documents": {store.JSONs(`{"a": "\"\\"}`, `null`, `[]`, strings.Repeat(" ", 300)+`7`), "jsonb", []string{`{"a": "\"\\"}`, `null`, `[]`, `7`}},
		"bytes":     {store.Byteas(nil, []byte{}, []byte{0, 255}), "bytea", []string{"nothing", `\x`, `\x00ff`}},
	} {
		t.Run(name, func(t *testing.T) {
			shown := "x::text"
			if test.typ == "timestamptz" {
				shown = "(x AT TIME ZONE 'UTC')::text"
			}
			var got []string
			if err := db.Select(&got, fmt.Sprintf(`SELECT coalesce(%s, 'nothing') FROM unnest($1::%s[]) WITH ORDINALITY AS u(x, n) ORDER BY n`, shown, test.typ), test.column); err != nil {
				t.Fatal(err)
			}
			if fmt.Sprintf("%q", got) != fmt.Sprintf("%q", test.want) {
				t.Errorf("the server read %q, want %q", got, test.want)
			}
		})
	}
}

func TestAPoolWithoutBinaryParametersIsTold(t *testing.T) {
	t.Parallel()
	db, err := sqlx.Open("postgres", servers.NewDatabase(t).URL)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err = db.Exec(`SELECT $1::text[]`, store.Texts("a")); err == nil || !strings.Contains(err.Error(), "binary_parameters=yes") {
		t.Errorf("got %v", err)
	}
}

// TestAStatementRunsWithWhateverPartsAreUsed runs more variants than are prepared, each of them twice.
func TestAStatementRunsWithWhateverPartsAreUsed(t *testing.T) {
	t.Parallel()
	db := servers.Open(t, servers.NewDatabase(t).URL)
	const parts = 7
	var selects []string
	for i := range parts {
		selects = append(selects, fmt.Sprintf("SELECT %d + ?::int", 1<<i))
	}
	s := store.NewStatement(selects, func(parts []string) string { return strings.Join(parts, " UNION ALL ") })
	for range 2 {
		for used := 1; used < 1<<parts; used++ {
			args, want := map[int]any{}, 0
			for i := range parts {
				if used&(1<<i) != 0 {
					args[i] = 1000 * i
					want += 1<<i + 1000*i
				}
			}
			answers, err := s.Ask(t.Context(), db, args)
			if err != nil {
				t.Fatal(err)
			}
			got := 0
			for _, n := range answers {
				got += n
			}
			if got != want || len(answers) != len(args) {
				t.Fatalf("the parts %b answered %v, want %d in all", used, answers, want)
			}
		}
	}
	if kept, prepared := s.Prepared(); kept != store.VariantsMax || prepared != kept {
		t.Errorf("%d variants are kept and %d of them prepared, want %d", kept, prepared, store.VariantsMax)
	}
}
