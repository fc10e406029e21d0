package asyncapi_test

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"hotchoc/ops/asyncapi"
	"hotchoc/ops/shop"
	"hotchoc/pkg/contract"
)

func document(t *testing.T) (text []byte, parsed map[string]any) {
	t.Helper()
	text, err := asyncapi.Document(t.Context(), shop.Flows())
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &parsed); err != nil {
		t.Fatal(err)
	}
	return text, parsed
}

// compiled is a schema within a document.
func compiled(t *testing.T, document any, at string) *jsonschema.Schema {
	t.Helper()
	c := jsonschema.NewCompiler()
	if err := c.AddResource("memory:///document", document); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("memory:///document" + at)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func official(t *testing.T) *jsonschema.Schema {
	t.Helper()
	raw, err := os.ReadFile("testdata/asyncapi-3.0.0.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	schema, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	return compiled(t, schema, "")
}

func TestTheDocumentIsValidAsyncAPI(t *testing.T) {
	schema := official(t)
	_, parsed := document(t)
	if err := schema.Validate(parsed); err != nil {
		t.Error(err)
	}
	delete(parsed["info"].(map[string]any), "title")
	if schema.Validate(parsed) == nil {
		t.Error("a document without a title is valid: nothing was looked at")
	}
}

func TestTheCommittedDocumentIsUpToDate(t *testing.T) {
	text, _ := document(t)
	committed, err := os.ReadFile("../../docs/asyncapi.json")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(bytes.TrimSpace(committed), text) {
		t.Error("docs/asyncapi.json is not what contracts and flows say: ./task flow")
	}
}

func TestEveryEventIsThereWithItsCommentsAndSomebodyWhoSendsIt(t *testing.T) {
	text, parsed := document(t)
	operations := parsed["operations"].(map[string]any)
	for _, e := range contract.All() {
		if operations[e.Owner+".sends."+e.Type] == nil {
			t.Errorf("nobody sends %s", e.Type)
		}
	}
	for _, f := range shop.Flows() {
		for _, typ := range f.Hears() {
			if operations[f.Service+".hears."+typ] == nil {
				t.Errorf("%s does not hear %s", f.Service, typ)
			}
		}
	}
	if !strings.Contains(string(text), "The gateway captured the order's total.") {
		t.Error("the comments of the .proto files are missing")
	}
}

// What is documented is what is written.
func TestWhatIsWrittenIsAsDocumented(t *testing.T) {
	_, parsed := document(t)
	for _, e := range contract.All() {
		name := string(e.New().ProtoReflect().Descriptor().FullName())
		payload := compiled(t, parsed, "#/components/schemas/"+name)
		body, err := contract.Marshal(contract.Example(e.Type))
		if err != nil {
			t.Fatal(err)
		}
		value, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		if err := payload.Validate(value); err != nil {
			t.Errorf("%s: %v", e.Type, err)
		}
		if payload.Validate([]any{}) == nil {
			t.Errorf("%s: anything is valid", e.Type)
		}
	}
}
