package web_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http/httptest"
	"testing"

	"github.com/labstack/echo/v4"

	"hotchoc/pkg/web"
)

// FuzzABodyIsOneObjectAsDocumentedOrRefusedWithAReason: what is accepted is one JSON object and nothing else; what is refused
// is the client's to mend, and the text says how.
func FuzzABodyIsOneObjectAsDocumentedOrRefusedWithAReason(f *testing.F) {
	for _, body := range []string{
		"", "{}", " {} ", "{}{}", "[]", "null", "7", "{", `{"name": "a", "quantity": 1, "price": {"amount": 3}, "tags": ["x"], "happy": true}`,
		`{"name": 7}`, `{"quantity": 99999999999}`, `{"price": {"amount": "3"}}`, `{"colour": "red"}`, `{"name": "a", "name": "b"}`, "\xff", `{"name": "\ud800"}`, `{"tags": [[]]}`,
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var v struct {
			Name     string `json:"name"`
			Quantity int32  `json:"quantity"`
			Price    struct {
				Amount int64 `json:"amount"`
			} `json:"price"`
			Tags  []string `json:"tags"`
			Happy *bool    `json:"happy"`
		}
		got, err := web.Decode(echo.New().NewContext(httptest.NewRequest("POST", "/", bytes.NewReader(body)), httptest.NewRecorder()), &v)
		if err == nil {
			var object map[string]any
			if !bytes.Equal(got, body) || json.Unmarshal(body, &object) != nil || object == nil {
				t.Errorf("%q was accepted as %q", body, got)
			}
			return
		}
		var p *web.Problem
		if !errors.As(err, &p) || p.Status < 400 || p.Status > 499 || p.Code == "" || p.Detail == "" {
			t.Errorf("%q: %v", body, err)
		}
	})
}
