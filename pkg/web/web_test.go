package web_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/protobuf/proto"

	"hotchoc/pkg/contract/orderv1"
	"hotchoc/pkg/contract/payv1"
	"hotchoc/pkg/event"
	"hotchoc/pkg/flow"
	"hotchoc/pkg/store"
	"hotchoc/pkg/web"
)

// listener is a flow to show.
var listener = flow.New("pay", flow.NewView("seen", []proto.Message{&orderv1.OrderPlaced{}}, func(*struct{}, proto.Message, event.Envelope) {}))

// wish is a body such as the services take.
type wish struct {
	Name     string `json:"name"`
	Quantity int32  `json:"quantity"`
	Price    struct {
		Amount int64 `json:"amount"`
	} `json:"price"`
	Tags  []string `json:"tags"`
	Happy *bool    `json:"happy"`
}

// edge is a server under test.
type edge struct {
	*web.Server
	t    *testing.T
	logs *observer.ObservedLogs
}

func newEdge(t *testing.T, checks map[string]web.Check) edge {
	t.Helper()
	core, logs := observer.New(zap.DebugLevel)
	s := web.New(listener, checks, prometheus.NewRegistry(), zap.New(core))
	s.POST("/wishes", func(c echo.Context) error {
		var w wish
		body, err := web.Decode(c, &w)
		if err != nil {
			return err
		}
		return c.Blob(http.StatusOK, "application/json", body)
	})
	s.GET("/fail", func(echo.Context) error { return errors.New("the password is geheim") })
	s.GET("/panic", func(echo.Context) error { panic("the password is geheim") })
	s.GET("/nil", func(echo.Context) error { var w *wish; w.Name = "x"; return nil })
	s.GET("/half", func(c echo.Context) error {
		_ = c.String(http.StatusOK, "half")
		return errors.New("too late")
	})
	s.GET("/verdict/:kind", func(c echo.Context) error {
		return web.Failed(map[string]flow.Verdict{
			"invalid":     {Refusal: &flow.Refusal{Code: flow.Invalid, Name: "no-name", Detail: "Give it a name."}},
			"missing":     {Refusal: &flow.Refusal{Code: flow.NotFound, Name: "unknown-wish", Detail: "There is none."}},
			"conflict":    {Refusal: &flow.Refusal{Code: flow.Conflict, Name: "granted", Detail: "It is granted: 100 % sure."}},
			"unavailable": {Err: fmt.Errorf("%w: 10.0.0.1 refused", store.ErrUnavailable)},
			"trouble":     {Err: errors.New("geheim")},
		}[c.Param("kind")])
	})
	return edge{s, t, logs}
}

func (e edge) do(method, target string, body io.Reader, header ...string) *http.Response {
	e.t.Helper()
	r := httptest.NewRequest(method, target, body)
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	e.ServeHTTP(w, r)
	return w.Result()
}

// problem reads a problem document and checks what all of them have.
func (e edge) problem(resp *http.Response, path string) web.Problem {
	e.t.Helper()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		e.t.Fatal(err)
	}
	var fields map[string]any
	var p web.Problem
	if err := errors.Join(json.Unmarshal(body, &fields), json.Unmarshal(body, &p)); err != nil {
		e.t.Fatalf("%s: %v", body, err)
	}
	for _, name := range []string{"type", "title", "status", "detail", "instance", "code"} {
		if fields[name] == nil || fields[name] == "" {
			e.t.Errorf("%s is missing in %s", name, body)
		}
	}
	if resp.Header.Get("Content-Type") != "application/problem+json" || p.Status != resp.StatusCode || p.Type != "/problems/"+p.Code || p.Title != http.StatusText(p.Status) || p.Instance != path {
		e.t.Errorf("%d %s %s", resp.StatusCode, resp.Header, body)
	}
	if strings.Contains(string(body), "geheim") || strings.Contains(string(body), "goroutine") {
		e.t.Errorf("it tells too much: %s", body)
	}
	return p
}

func TestABodyThatIsWrongIsExplained(t *testing.T) {
	t.Parallel()
	e := newEdge(t, nil)
	good := `{"name":"cocoa","quantity":2}`
	for name, c := range map[string]struct {
		body   string
		status int
		detail string
	}{
		"empty":                  {"", 400, "it is empty"},
		"blank":                  {" \n\t ", 400, "it is empty"},
		"cut off":                {`{"name":"coc`, 400, "it ends in the middle"},
		"cut off after a field":  {`{"name":"cocoa",`, 400, "it ends in the middle"},
		"cut off at once":        {`{`, 400, "it ends in the middle"},
		"an unknown field":       {`{"name":"cocoa","size":"big"}`, 400, `unknown field "size"`},
		"a text for a number":    {`{"quantity":"two"}`, 400, "quantity cannot be a text"},
		"a number for a text":    {`{"name":2}`, 400, "name cannot be a number"},
		"an object for a text":   {`{"name":{}}`, 400, "name cannot be an object"},
		"a text for an object":   {`{"price":"much"}`, 400, "price cannot be a text"},
		"a text inside":          {`{"price":{"amount":"much"}}`, 400, "price.amount cannot be a text"},
		"a text for a list":      {`{"tags":"sweet"}`, 400, "tags cannot be a text"},
		"a number in a list":     {`{"tags":["sweet",7]}`, 400, "tags cannot be a number"},
		"a number for a bool":    {`{"happy":1}`, 400, "happy cannot be a number"},
		"a bool for a text":      {`{"name":true}`, 400, "name cannot be true or false"},
		"a fraction":             {`{"quantity":1.5}`, 400, "quantity cannot be the number 1.5"},
		"a number too big":       {`{"quantity":3000000000}`, 400, "quantity cannot be the number 3000000000"},
		"a number much too big":  {`{"price":{"amount":99999999999999999999}}`, 400, "price.amount cannot be the number 99999999999999999999"},
		"a number without end":   {`{"quantity":1e999}`, 400, "quantity cannot be the number 1e999"},
		"a list":                 {`[` + good + `]`, 400, "it is not an object"},
		"a text":                 {`"cocoa"`, 400, "it is not an object"},
		"a number":               {`42`, 400, "it is not an object"},
		"null":                   {`null`, 400, "it is not an object"},
		"true":                   {`true`, 400, "it is not an object"},
		"not JSON":               {`name=cocoa`, 400, "it is not an object"},
		"not JSON inside":        {`{"name":cocoa}`, 400, "invalid character 'c'"},
		"single quotes":          {`{'name':'cocoa'}`, 400, `invalid character '\''`},
		"a comma too many":       {`{"name":"cocoa",}`, 400, "invalid character '}'"},
		"XML":                    {`<wish/>`, 400, "it is not an object"},
		"two objects":            {good + good, 400, "something after"},
		"something after":        {good + ` x`, 400, "something after"},
		"a brace too many":       {good + `}`, 400, "something after"},
		"a byte over the limit":  {good + strings.Repeat(" ", web.BodyMax+1-len(good)), 413, "more than 65536 bytes"},
		"far over the limit":     {strings.Repeat("x", 1<<20), 413, "more than 65536 bytes"},
		"very deep":              {`{"tags":` + strings.Repeat("[", 30_000), 400, "exceeded max depth"},
		"a NUL":                  {"{\"name\":\"\x00\"}", 400, `invalid character '\x00'`},
		"a name without an end":  {`{"name`, 400, "it ends in the middle"},
		"an unknown field, deep": {`{"price":{"amount":1,"vat":2}}`, 400, `unknown field "vat"`},
	} {
		resp := e.do("POST", "/wishes", strings.NewReader(c.body))
		p := e.problem(resp, "/wishes")
		if resp.StatusCode != c.status || !strings.Contains(p.Detail, c.detail) {
			t.Errorf("%s: %d %q, want %d %q", name, resp.StatusCode, p.Detail, c.status, c.detail)
		}
		for _, gibberish := range []string{"json:", "Go ", "wish", "unmarshal", "EOF", "int32", "struct", "echo", "code="} {
			if strings.Contains(p.Detail, gibberish) {
				t.Errorf("%s: a person reads %q", name, p.Detail)
			}
		}
	}
}

func TestABodyThatIsRightIsGivenBackAsItCame(t *testing.T) {
	t.Parallel()
	e := newEdge(t, nil)
	for _, body := range []string{
		`{}`, ` { "name" : "Kakao ☕" } `, `{"quantity":-1,"tags":[],"happy":null}`, "{\n}\n",
		`{"name":"x"}` + strings.Repeat(" ", web.BodyMax-len(`{"name":"x"}`)),
	} {
		resp := e.do("POST", "/wishes", strings.NewReader(body))
		got, _ := io.ReadAll(resp.Body)
		if resp.StatusCode != http.StatusOK || string(got) != body {
			t.Errorf("%.60s: %d %.60s", body, resp.StatusCode, got)
		}
	}
}

// broken is a body that ends with an error.
type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("the line is cut") }

func TestABodyThatCannotBeReadIsTheClientsProblem(t *testing.T) {
	t.Parallel()
	e := newEdge(t, nil)
	resp := e.do("POST", "/wishes", broken{})
	if p := e.problem(resp, "/wishes"); p.Status != http.StatusBadRequest || p.Code != "unreadable-body" {
		t.Errorf("got %+v", p)
	}
}

func TestWhatIsNotThereIsAProblem(t *testing.T) {
	t.Parallel()
	e := newEdge(t, nil)
	for _, c := range []struct {
		method, path, code string
		status             int
	}{
		{"GET", "/none", "not-found", 404}, {"POST", "/", "not-found", 404}, {"GET", "/wishes/7", "not-found", 404}, {"GET", "/../etc/passwd", "not-found", 404},
		{"GET", "/wishes", "method-not-allowed", 405}, {"DELETE", "/livez", "method-not-allowed", 405}, {"BREW", "/flow", "method-not-allowed", 405},
	} {
		resp := e.do(c.method, c.path, nil)
		if p := e.problem(resp, c.path); p.Status != c.status || p.Code != c.code || !strings.Contains(p.Detail, c.method+" "+c.path) {
			t.Errorf("%s %s: %+v", c.method, c.path, p)
		}
		if c.status == 405 && resp.Header.Get("Allow") == "" {
			t.Errorf("%s %s: it is not said what is allowed", c.method, c.path)
		}
	}
	resp := e.do("HEAD", "/none", nil)
	if body, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusNotFound || len(body) != 0 {
		t.Errorf("HEAD: %d %s", resp.StatusCode, body)
	}
}

func TestTroubleIsLoggedAndNotTold(t *testing.T) {
	t.Parallel()
	e := newEdge(t, nil)
	for _, path := range []string{"/fail", "/panic", "/nil", "/verdict/trouble"} {
		before := e.logs.FilterMessage("request failed").Len()
		if p := e.problem(e.do("GET", path, nil), path); p.Status != http.StatusInternalServerError || p.Code != "internal" {
			t.Errorf("%s: %+v", path, p)
		}
		if e.logs.FilterMessage("request failed").Len() != before+1 {
			t.Errorf("%s is not in the log", path)
		}
	}
	if n := e.logs.FilterMessage("panic in a request").Len(); n != 2 {
		t.Errorf("%d panics are in the log, with their stacks", n)
	}
	resp := e.do("GET", "/half", nil)
	if body, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusOK || string(body) != "half" {
		t.Errorf("an answer that was begun: %d %s", resp.StatusCode, body)
	}
}

func TestAVerdictHasItsStatus(t *testing.T) {
	t.Parallel()
	e := newEdge(t, nil)
	for kind, want := range map[string]web.Problem{
		"invalid":     {Status: 422, Code: "no-name", Detail: "Give it a name."},
		"missing":     {Status: 404, Code: "unknown-wish", Detail: "There is none."},
		"conflict":    {Status: 409, Code: "granted", Detail: "It is granted: 100 % sure."},
		"unavailable": {Status: 503, Code: "unavailable", Detail: "Idempotency-Key"},
	} {
		resp := e.do("GET", "/verdict/"+kind, nil)
		p := e.problem(resp, "/verdict/"+kind)
		if p.Status != want.Status || p.Code != want.Code || !strings.Contains(p.Detail, want.Detail) || strings.Contains(p.Detail, "10.0.0.1") {
			t.Errorf("%s: %+v", kind, p)
		}
		if (resp.Header.Get("Retry-After") != "") != (want.Status == 503) {
			t.Errorf("%s: Retry-After is %q", kind, resp.Header.Get("Retry-After"))
		}
	}
	if err := web.Failed(flow.Verdict{Duplicate: true}); err != nil {
		t.Errorf("what was done before is no failure: %v", err)
	}
}

func TestReadinessSaysWhatIsMissing(t *testing.T) {
	t.Parallel()
	missing := errors.New("no broker")
	e := newEdge(t, map[string]web.Check{
		"database":   func(context.Context) error { return nil },
		"publishing": func(context.Context) error { return missing },
	})
	read := func() (status int, ready bool, checks map[string]string) {
		resp := e.do("GET", "/readyz", nil)
		var report struct {
			Ready  bool              `json:"ready"`
			Checks map[string]string `json:"checks"`
		}
		if err := json.NewDecoder(resp.Body).Decode(&report); err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, report.Ready, report.Checks
	}
	if status, ready, checks := read(); status != 503 || ready || checks["database"] != "ok" || checks["publishing"] != "no broker" {
		t.Errorf("%d %v %v", status, ready, checks)
	}
	if resp := e.do("GET", "/livez", nil); resp.StatusCode != http.StatusOK {
		t.Errorf("alive: %d", resp.StatusCode)
	}
	missing = nil
	if status, ready, checks := read(); status != 200 || !ready || checks["publishing"] != "ok" {
		t.Errorf("%d %v %v", status, ready, checks)
	}
}

func TestAServiceShowsItsFlowAndItsMetrics(t *testing.T) {
	t.Parallel()
	e := newEdge(t, nil)
	var graph flow.Graph
	if err := json.NewDecoder(e.do("GET", "/flow", nil).Body).Decode(&graph); err != nil || len(graph.Views) != 1 || graph.Services[0] != "pay" {
		t.Errorf("%+v, %v", graph, err)
	}
	if resp := e.do("GET", "/metrics", nil); resp.StatusCode != http.StatusOK {
		t.Errorf("metrics: %d", resp.StatusCode)
	}
}

func TestTheSameIdempotencyKeyIsTheSameMessage(t *testing.T) {
	t.Parallel()
	id := func(scope, key string) string {
		r := httptest.NewRequest("POST", "/", nil)
		if key != "" {
			r.Header.Set("Idempotency-Key", key)
		}
		got, err := web.MessageID(echo.New().NewContext(r, httptest.NewRecorder()), scope)
		if err != nil {
			t.Fatalf("%q: %v", key, err)
		}
		return got.String()
	}
	first, again, none, noneAgain := id("place", "a"), id("place", "a"), id("place", ""), id("place", "")
	if first != again || first == id("place", "b") || first == id("cancel", "a") || none == noneAgain {
		t.Error("keys and IDs do not go together")
	}
	for _, key := range []string{strings.Repeat("x", 201), "a\x00b", "a\nb", "\xff", "\u202e", "\x7f"} {
		r := httptest.NewRequest("POST", "/", nil)
		r.Header["Idempotency-Key"] = []string{key}
		_, err := web.MessageID(echo.New().NewContext(r, httptest.NewRecorder()), "place")
		var p *web.Problem
		if !errors.As(err, &p) || p.Status != 400 || p.Code != "invalid-idempotency-key" {
			t.Errorf("%q: %v", key, err)
		}
	}
	id("place", strings.Repeat("ü", 200))
}

// TestAStopLetsRequestsComeToTheirEnd is over a real socket.
func TestAStopLetsRequestsComeToTheirEnd(t *testing.T) {
	t.Parallel()
	e := newEdge(t, nil)
	arrived := make(chan struct{})
	e.GET("/wait", func(c echo.Context) error {
		close(arrived)
		<-c.Request().Context().Done() // those that only wait are told at once
		return c.String(http.StatusOK, "stopped waiting")
	})
	l, err := web.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- e.Serve(ctx, l) }()
	answer := make(chan string, 1)
	go func() {
		resp, err := http.Get("http://" + l.Addr().String() + "/wait")
		if err != nil {
			answer <- err.Error()
			return
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		answer <- string(body)
	}()
	<-arrived
	cancel()
	if got := <-answer; got != "stopped waiting" {
		t.Errorf("got %s", got)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
	if _, err := web.Listen("127.0.0.1:0"); err != nil {
		t.Error(err)
	}
}

func TestAnAddressInUseIsFoundAtOnce(t *testing.T) {
	t.Parallel()
	l, err := web.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if again, err := web.Listen(l.Addr().String()); err == nil {
		again.Close()
		t.Error("two listen at the same address")
	}
}

func FuzzNoBodyIsTakenThatIsNotOneObject(f *testing.F) {
	for _, seed := range []string{`{}`, `null`, `{"name":"x"}`, `[{}]`, `{}{}`, "\ufeff{}", `{"name":"\ud800"}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		c := echo.New().NewContext(httptest.NewRequest("POST", "/", bytes.NewReader(body)), httptest.NewRecorder())
		var w wish
		got, err := web.Decode(c, &w)
		var p *web.Problem
		if err != nil && (!errors.As(err, &p) || p.Detail == "") {
			t.Fatalf("%q: %v", body, err)
		}
		var object map[string]any
		if err == nil && (!bytes.Equal(got, body) || json.Unmarshal(body, &object) != nil || object == nil) {
			t.Fatalf("%q was taken", body)
		}
	})
}

func TestAKeyThatComesBackWithAnotherBodyIsRefused(t *testing.T) {
	t.Parallel()
	type wish struct{ Customer string }
	orders := flow.NewStream("customer", func(*struct{}, proto.Message) {})
	f := flow.New("pay", orders, flow.Command("flag", flow.By(orders, func(w wish) string { return w.Customer }), func(_ *struct{}, w wish) flow.Outcome {
		return flow.Emit(&payv1.CustomerFlagged{Customer: w.Customer, Refusals: 1, WindowSeconds: 1})
	}).Emits(&payv1.CustomerFlagged{}).NotCompensated("a test"))
	intake := flow.NewIntake(f, flow.NewDoor(f, store.NewMemory(), nil, nil), zap.NewNop(), flow.IntakeConfig{})
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	go func() { _ = intake.Run(ctx) }()
	do := func(body string) (flow.Verdict, error) {
		r := httptest.NewRequest("POST", "/", nil)
		r.Header.Set("Idempotency-Key", "a")
		return web.Do(echo.New().NewContext(r, httptest.NewRecorder()), intake, web.Command{Step: "flag", Wish: wish{"ada"}, Body: []byte(body)})
	}
	if v, err := do("one"); err != nil || v.Duplicate || len(v.Events) != 1 {
		t.Fatalf("the first time: %+v, %v", v, err)
	}
	if v, err := do("one"); err != nil || !v.Duplicate {
		t.Errorf("the same once more: %+v, %v", v, err)
	}
	_, err := do("two")
	var p *web.Problem
	if !errors.As(err, &p) || p.Status != http.StatusUnprocessableEntity || p.Code != "idempotency-key-reused" {
		t.Errorf("another body: %v", err)
	}
}
