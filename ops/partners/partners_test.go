package partners_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"hotchoc/ops/partners"
)

// world is a running pair of partners with a clock that only the test moves.
type world struct {
	t      *testing.T
	cfg    partners.Config
	server *partners.Server
	web    *httptest.Server
	waits  chan time.Duration // a request has begun to wait this long
	end    chan time.Time     // ends one wait
}

func start(t *testing.T, cfg partners.Config) *world {
	t.Helper()
	w := &world{t: t, waits: make(chan time.Duration, 100), end: make(chan time.Time)}
	if cfg.LedgerDir == "" {
		cfg.LedgerDir = t.TempDir()
	}
	cfg.After = func(d time.Duration) <-chan time.Time {
		w.waits <- d
		return w.end
	}
	w.cfg = cfg
	w.open()
	t.Cleanup(w.close)
	return w
}

func (w *world) open() {
	w.t.Helper()
	server, err := partners.New(w.cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	w.server, w.web = server, httptest.NewServer(server.Handler())
}

func (w *world) close() {
	w.web.CloseClientConnections()
	if err := w.server.Close(); err != nil {
		w.t.Error(err)
	}
	w.web.Close()
}

func (w *world) restart() {
	w.t.Helper()
	w.close()
	w.open()
}

// reply is what came back: no status means no answer.
type reply struct {
	status int
	typ    string
	body   map[string]any
	text   string
}

func (w *world) do(method, path, body string) reply {
	return w.doContext(context.Background(), method, path, body)
}

func (w *world) doContext(ctx context.Context, method, path, body string) reply {
	req, err := http.NewRequestWithContext(ctx, method, w.web.URL+path, strings.NewReader(body))
	if err != nil {
		panic(err)
	}
	res, err := w.web.Client().Do(req)
	if err != nil {
		return reply{text: err.Error()}
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return reply{text: err.Error()}
	}
	r := reply{status: res.StatusCode, typ: res.Header.Get("Content-Type"), text: string(text)}
	json.Unmarshal(text, &r.body)
	return r
}

// begin sends a request and returns when it waits. Its reply comes later.
func (w *world) begin(method, path, body string) <-chan reply {
	w.t.Helper()
	out := make(chan reply, 1)
	go func() { out <- w.do(method, path, body) }()
	<-w.waits
	return out
}

func capture(token string) string {
	return fmt.Sprintf(`{"amount":900,"currency":"EUR","token":%q,"order":"o1"}`, token)
}

// want checks status and the members of the body that are given.
func (w *world) want(got reply, status int, members string) reply {
	w.t.Helper()
	var want map[string]any
	if err := json.Unmarshal([]byte(members), &want); err != nil {
		w.t.Fatal(err)
	}
	if got.status != status {
		w.t.Fatalf("got %d %s, want %d", got.status, got.text, status)
	}
	for name, value := range want {
		if got.body[name] != value {
			w.t.Errorf("%s is %v in %s, want %v", name, got.body[name], got.text, value)
		}
	}
	typ := "application/json"
	if _, isProblem := got.body["title"]; isProblem {
		typ = "application/problem+json"
	}
	if got.typ != typ {
		w.t.Errorf("content type is %q for %s, want %q", got.typ, got.text, typ)
	}
	return got
}

func (w *world) lost(got reply) {
	w.t.Helper()
	if got.status != 0 {
		w.t.Fatalf("got %d %s, want no answer", got.status, got.text)
	}
}

func (w *world) ledger(query string) []partners.Entry {
	w.t.Helper()
	got := w.do("GET", "/ledger"+query, "")
	if got.status != 200 || got.typ != "application/x-ndjson" {
		w.t.Fatalf("got %d %s %s", got.status, got.typ, got.text)
	}
	var entries []partners.Entry
	for lines := bufio.NewScanner(strings.NewReader(got.text)); lines.Scan(); {
		var e partners.Entry
		decoder := json.NewDecoder(bytes.NewReader(lines.Bytes()))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&e); err != nil {
			w.t.Fatalf("%v in %s", err, lines.Text())
		}
		if _, err := time.Parse(time.RFC3339Nano, e.At); err != nil {
			w.t.Error(err)
		}
		entries = append(entries, e)
	}
	return entries
}

// kinds checks the ledger's entries, each as "action key kind".
func (w *world) kinds(want ...string) {
	w.t.Helper()
	var got []string
	for _, e := range w.ledger("") {
		got = append(got, e.Action+" "+e.Key+" "+e.Kind)
	}
	if strings.Join(got, ", ") != strings.Join(want, ", ") {
		w.t.Errorf("the ledger has\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

func TestACaptureHappensOncePerKey(t *testing.T) {
	t.Parallel()
	w := start(t, partners.Config{})
	first := w.want(w.do("PUT", "/captures/k", capture("tok_ok")), 200,
		`{"key":"k","status":"captured","amount":900,"currency":"EUR"}`)
	if first.body["capture_id"] == "" {
		t.Errorf("no capture_id in %s", first.text)
	}

	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if again := w.do("PUT", "/captures/k", capture("tok_ok")); again.text != first.text {
				t.Errorf("the same request got %s, first %s", again.text, first.text)
			}
		})
	}
	all.Wait()
	w.kinds("capture k captured")
}

func TestConcurrentFirstRequestsCaptureOnce(t *testing.T) {
	t.Parallel()
	w := start(t, partners.Config{})
	var all sync.WaitGroup
	for n := range 64 {
		all.Go(func() {
			w.want(w.do("PUT", fmt.Sprintf("/captures/k%d", n%8), capture("tok_ok")), 200, `{"status":"captured"}`)
		})
	}
	all.Wait()
	if n := len(w.ledger("")); n != 8 {
		t.Errorf("%d entries, want 8", n)
	}
}

func TestAKeyIsForOneRequest(t *testing.T) {
	t.Parallel()
	w := start(t, partners.Config{})
	w.want(w.do("PUT", "/captures/k", capture("tok_ok")), 200, `{}`)
	for _, body := range []string{
		`{"amount":901,"currency":"EUR","token":"tok_ok","order":"o1"}`,
		`{"amount":900,"currency":"USD","token":"tok_ok","order":"o1"}`,
		`{"amount":900,"currency":"EUR","token":"tok_declined","order":"o1"}`,
		`{"amount":900,"currency":"EUR","token":"tok_ok","order":"o2"}`,
	} {
		w.want(w.do("PUT", "/captures/k", body), 422, `{"status":422}`)
	}
	w.kinds("capture k captured")

	w.want(w.do("PUT", "/dispatches/k", `{"order":"o1","address":"12 Mill Lane"}`), 200, `{}`)
	w.want(w.do("PUT", "/dispatches/k", `{"order":"o1","address":"13 Mill Lane"}`), 422, `{}`)
	w.want(w.do("PUT", "/handovers/k", `{"order":"o1","address":"12 Mill Lane","courier":"Ida"}`), 200, `{}`)
	w.want(w.do("PUT", "/handovers/k", `{"order":"o1","address":"12 Mill Lane","courier":"Otto"}`), 422, `{}`)
}

func TestTokensThatAreRefused(t *testing.T) {
	t.Parallel()
	w := start(t, partners.Config{})
	for token, want := range map[string]string{
		"tok_declined":     `{"status":"refused","reason":"declined"}`,
		"tok_insufficient": `{"status":"refused","reason":"insufficient_funds"}`,
		"tok_fraud":        `{"status":"refused","reason":"fraud"}`,
		"tok_böse \"x\"":   `{"status":"refused","reason":"declined","detail":"unknown token"}`,
	} {
		path := "/captures/" + strings.Trim(token, "ö\" ")
		if strings.Contains(token, "x") {
			path = "/captures/x"
		}
		first := w.want(w.do("PUT", path, capture(token)), 402, want)
		w.restart()
		if again := w.want(w.do("PUT", path, capture(token)), 402, want); again.text != first.text {
			t.Errorf("the same request got %s, first %s", again.text, first.text)
		}
	}
}

func TestAVoidBarsAnUnusedKey(t *testing.T) {
	t.Parallel()
	w := start(t, partners.Config{})
	first := w.want(w.do("POST", "/captures/k/void", ""), 200, `{"key":"k","status":"voided","refund_id":"","amount":0}`)
	w.want(w.do("PUT", "/captures/k", capture("tok_ok")), 409, `{"key":"k","status":"voided"}`)
	w.restart()
	w.want(w.do("PUT", "/captures/k", capture("tok_declined")), 409, `{"status":"voided"}`)
	if again := w.do("POST", "/captures/k/void", "{}"); again.text != first.text {
		t.Errorf("the second void got %s, the first %s", again.text, first.text)
	}
	w.kinds("capture k voided")
}

func TestAVoidGivesTheMoneyBackOnce(t *testing.T) {
	t.Parallel()
	w := start(t, partners.Config{})
	w.want(w.do("PUT", "/captures/k", capture("tok_ok")), 200, `{}`)
	first := w.want(w.do("POST", "/captures/k/void", ""), 200, `{"status":"voided","amount":900,"currency":"EUR"}`)
	if first.body["refund_id"] == "" {
		t.Errorf("no refund_id in %s", first.text)
	}
	for range 2 {
		if again := w.do("POST", "/captures/k/void", ""); again.text != first.text {
			t.Errorf("the second void got %s, the first %s", again.text, first.text)
		}
		w.want(w.do("PUT", "/captures/k", capture("tok_ok")), 409, `{"status":"voided"}`)
		w.restart()
	}
	w.kinds("capture k captured", "capture k refunded")
	refund := w.ledger("?order=o1")[1]
	if refund.Amount != 900 || refund.Currency != "EUR" || refund.ID != first.body["refund_id"] || refund.Partner != "gateway" {
		t.Errorf("the refund is %+v", refund)
	}
}

func TestAVoidOfARefusalGivesNothingBack(t *testing.T) {
	t.Parallel()
	w := start(t, partners.Config{})
	w.want(w.do("PUT", "/captures/k", capture("tok_fraud")), 402, `{}`)
	w.want(w.do("POST", "/captures/k/void", ""), 200, `{"status":"voided","refund_id":"","amount":0}`)
	w.want(w.do("PUT", "/captures/k", capture("tok_fraud")), 409, `{"status":"voided"}`)
}

func TestAVoidWinsOverASlowCapture(t *testing.T) {
	t.Parallel()
	w := start(t, partners.Config{SlowFor: time.Hour})
	slow := w.begin("PUT", "/captures/k", capture("tok_slow"))
	w.want(w.do("POST", "/captures/k/void", ""), 200, `{"status":"voided","refund_id":"","amount":0}`)
	w.end <- time.Time{}
	w.want(<-slow, 409, `{"status":"voided"}`)
	w.kinds("capture k voided")
}

func TestAVoidAfterASlowCaptureRefunds(t *testing.T) {
	t.Parallel()
	w := start(t, partners.Config{SlowFor: time.Hour})
	slow := w.begin("PUT", "/captures/k", capture("tok_slow"))
	w.end <- time.Time{}
	captured := w.want(<-slow, 200, `{"status":"captured"}`)
	if again := w.do("PUT", "/captures/k", capture("tok_slow")); again.text != captured.text { // at once
		t.Errorf("the same request got %s, first %s", again.text, captured.text)
	}
	w.want(w.do("POST", "/captures/k/void", ""), 200, `{"status":"voided","amount":900}`)
}

func TestASlowCaptureHappensThoughTheClientHasLeft(t *testing.T) {
	t.Parallel()
	w := start(t, partners.Config{SlowFor: time.Hour})
	ctx, leave := context.WithCancel(context.Background())
	gone := make(chan reply)
	go func() { gone <- w.doContext(ctx, "PUT", "/captures/k", capture("tok_slow")) }()
	if d := <-w.waits; d != time.Hour {
		t.Errorf("waits %v, want SlowFor", d)
	}
	leave()
	w.lost(<-gone)
	again := w.begin("PUT", "/captures/k", capture("tok_slow")) // not booked yet, so it waits as well
	w.end <- time.Time{}
	w.end <- time.Time{}
	w.want(<-again, 200, `{"status":"captured"}`)
	w.kinds("capture k captured")
}

func TestConcurrentVoidsAndCapturesLeaveNothingCharged(t *testing.T) {
	t.Parallel()
	w := start(t, partners.Config{})
	var all sync.WaitGroup
	for n := range 50 {
		path := fmt.Sprintf("/captures/k%d", n)
		all.Go(func() {
			if got := w.do("PUT", path, capture("tok_ok")); got.status != 200 && got.status != 409 {
				t.Errorf("got %d %s", got.status, got.text)
			}
		})
		all.Go(func() { w.want(w.do("POST", path+"/void", ""), 200, `{"status":"voided"}`) })
	}
	all.Wait()
	var sum int64
	for _, e := range w.ledger("") {
		switch e.Kind {
		case partners.KindCaptured:
			sum += e.Amount
		case partners.KindRefunded:
			sum -= e.Amount
		}
	}
	if sum != 0 {
		t.Errorf("%d is still charged", sum)
	}
}

func TestALostAnswerIsRepeatedOnceAskedAgain(t *testing.T) {
	t.Parallel()
	w := start(t, partners.Config{})
	w.lost(w.do("PUT", "/captures/k", capture("tok_lost")))
	w.kinds("capture k captured")
	w.restart()
	got := w.want(w.do("PUT", "/captures/k", capture("tok_lost")), 200, `{"status":"captured"}`)
	if id := w.ledger("")[0].ID; got.body["capture_id"] != id {
		t.Errorf("capture_id is %v, in the ledger %s", got.body["capture_id"], id)
	}
	w.kinds("capture k captured")
}

func TestAFlakyTokenFailsTwicePerKey(t *testing.T) {
	t.Parallel()
	w := start(t, partners.Config{})
	for _, key := range []string{"a", "b"} {
		w.want(w.do("PUT", "/captures/"+key, capture("tok_flaky")), 503, `{"status":503}`)
		w.want(w.do("PUT", "/captures/"+key, capture("tok_flaky")), 503, `{"status":503}`)
		w.want(w.do("PUT", "/captures/"+key, capture("tok_flaky")), 200, `{"status":"captured"}`)
		w.want(w.do("PUT", "/captures/"+key, capture("tok_flaky")), 200, `{"status":"captured"}`)
	}
}

func TestATokenThatIsDownNeverAnswers(t *testing.T) {
	t.Parallel()
	w := start(t, partners.Config{})

	ctx, leave := context.WithCancel(context.Background())
	gone := make(chan reply)
	go func() { gone <- w.doContext(ctx, "PUT", "/captures/k", capture("tok_down")) }()
	<-w.waits
	leave()
	w.lost(<-gone)

	held := w.begin("PUT", "/captures/k", capture("tok_down"))
	// The first request may take this tick on its way out, so offer it until the second has ended.
	for ended := false; !ended; {
		select {
		case w.end <- time.Time{}:
		case got := <-held:
			w.lost(got)
			ended = true
		}
	}

	w.want(w.do("POST", "/captures/k/void", ""), 200, `{"status":"voided","amount":0}`)
	w.want(w.do("PUT", "/captures/k", capture("tok_down")), 409, `{"status":"voided"}`)
	w.kinds("capture k voided")
}

func TestDispatches(t *testing.T) {
	t.Parallel()
	w := start(t, partners.Config{})
	home := `{"order":"o1","address":"12 Mill Lane"}`
	first := w.want(w.do("PUT", "/dispatches/k", home), 200, `{"key":"k","status":"dispatched"}`)
	if first.body["courier"] == "" {
		t.Errorf("no courier in %s", first.text)
	}
	if again := w.do("PUT", "/dispatches/k", home); again.text != first.text {
		t.Errorf("the same request got %s, first %s", again.text, first.text)
	}
	w.want(w.do("PUT", "/dispatches/far", `{"order":"o2","address":"no-courier"}`), 409, `{"status":"refused","reason":"no_courier"}`)

	for range 2 {
		w.want(w.do("POST", "/dispatches/k/void", ""), 200, `{"key":"k","status":"voided"}`)
		w.want(w.do("POST", "/dispatches/new/void", ""), 200, `{"status":"voided"}`)
		w.want(w.do("PUT", "/dispatches/k", home), 409, `{"status":"voided"}`)
		w.want(w.do("PUT", "/dispatches/new", home), 409, `{"status":"voided"}`)
		w.want(w.do("PUT", "/dispatches/far", `{"order":"o2","address":"no-courier"}`), 409, `{"status":"refused"}`)
		w.restart()
	}
	w.kinds("dispatch k dispatched", "dispatch far refused", "dispatch k voided", "dispatch new voided")
}

func TestHandOvers(t *testing.T) {
	t.Parallel()
	w := start(t, partners.Config{})
	to := func(address string) string {
		return fmt.Sprintf(`{"order":"o1","address":%q,"courier":"Ida"}`, address)
	}
	w.want(w.do("PUT", "/handovers/home", to("12 Mill Lane")), 200, `{"key":"home","status":"delivered"}`)
	w.want(w.do("PUT", "/handovers/nowhere", to("nowhere")), 409, `{"status":"refused","reason":"nobody_home"}`)
	w.want(w.do("PUT", "/handovers/refuse", to("refuse 7")), 409, `{"status":"refused","reason":"refused"}`)

	slow := w.begin("PUT", "/handovers/slow", to("slow lane"))
	w.want(w.do("POST", "/handovers/slow/void", ""), 200, `{"status":"voided"}`)
	w.end <- time.Time{}
	w.want(<-slow, 409, `{"status":"voided"}`)

	slow = w.begin("PUT", "/handovers/slow2", to("slow lane"))
	w.end <- time.Time{}
	w.want(<-slow, 200, `{"status":"delivered"}`)

	for range 2 { // what was delivered stays delivered
		w.want(w.do("POST", "/handovers/home/void", ""), 200, `{"key":"home","status":"delivered"}`)
		w.want(w.do("PUT", "/handovers/home", to("12 Mill Lane")), 200, `{"status":"delivered"}`)
		w.want(w.do("POST", "/handovers/nowhere/void", ""), 200, `{"status":"voided"}`)
		w.want(w.do("PUT", "/handovers/nowhere", to("nowhere")), 409, `{"status":"voided"}`)
		w.restart()
	}
	w.kinds("handover home delivered", "handover nowhere refused", "handover refuse refused", "handover slow voided",
		"handover slow2 delivered", "handover nowhere voided")
}

func TestTheLedgerIsOneListByTime(t *testing.T) {
	t.Parallel()
	w := start(t, partners.Config{})
	w.do("PUT", "/captures/a%2Fcharge", capture("tok_ok"))
	w.do("PUT", "/dispatches/a", `{"order":"o1","address":"Straße \"7\"\n\u2028<b>"}`)
	w.do("PUT", "/captures/b", `{"amount":300,"currency":"USD","token":"tok_ok","order":"o2"}`)
	w.do("PUT", "/captures/c", `{"amount":300,"currency":"EUR","token":"tok_ok","order":"o22"}`)
	w.do("PUT", "/handovers/a", `{"order":"o1","address":"refuse","courier":"Ida"}`)
	w.do("POST", "/captures/a%2Fcharge/void", "")
	want := []string{"capture a/charge captured", "dispatch a dispatched", "capture b captured", "capture c captured",
		"handover a refused", "capture a/charge refunded"}
	for range 2 {
		w.kinds(want...)
		if n := len(w.ledger("?order=o1")); n != 4 {
			t.Errorf("%d entries of o1, want 4", n)
		}
		if n := len(w.ledger("?order=o2")); n != 1 {
			t.Errorf("%d entries of o2, want 1", n)
		}
		if n := len(w.ledger("?order=o3")); n != 0 {
			t.Errorf("%d entries of o3, want none", n)
		}
		got := w.do("GET", "/summary", "")
		want := `{"gateway":{"captured":{"count":3,"sums":{"EUR":1200,"USD":300}},"refunded":{"count":1,"sums":{"EUR":900}}},` +
			`"courier":{"dispatched":{"count":1},"refused":{"count":1}}}` + "\n"
		if got.text != want {
			t.Errorf("the summary is %s, want %s", got.text, want)
		}
		w.restart()
	}
	w.want(w.do("GET", "/ledger?oder=o1", ""), 400, `{"status":400}`)
	w.want(w.do("GET", "/ledger?order=", ""), 400, `{"status":400}`)
}

func TestATornLastLineIsCutOff(t *testing.T) {
	t.Parallel()
	log, heard := observer.New(zap.WarnLevel)
	w := start(t, partners.Config{Log: zap.New(log)})
	w.want(w.do("PUT", "/captures/a", capture("tok_ok")), 200, `{}`)
	w.want(w.do("PUT", "/captures/b", capture("tok_ok")), 200, `{}`)
	w.close()
	path := filepath.Join(w.cfg.LedgerDir, "gateway.jsonl")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, whole[:len(whole)-20], 0o644); err != nil {
		t.Fatal(err)
	}

	w.open()
	if heard.FilterMessageSnippet("torn").Len() != 1 {
		t.Errorf("the log heard %v", heard.All())
	}
	w.kinds("capture a captured")
	w.want(w.do("PUT", "/captures/b", capture("tok_ok")), 200, `{"capture_id":"cap_2"}`)
	w.restart()
	w.kinds("capture a captured", "capture b captured")
	if heard.Len() != 1 {
		t.Errorf("the log heard %v", heard.All())
	}
}

func TestADamagedLedgerIsNotOpened(t *testing.T) {
	t.Parallel()
	const captured = `{"at":"2025-01-01T00:00:00.000000000Z","partner":"gateway","action":"capture","kind":"captured","key":"k","order":"o1","amount":900,"currency":"EUR","id":"cap_1","token":"tok_ok"}`
	for name, lines := range map[string]string{
		"no JSON":            captured + "\n??\n" + captured + "\n",
		"captured twice":     captured + "\n" + captured + "\n",
		"refund for nothing": strings.NewReplacer("captured", "refunded", "cap_1", "ref_1").Replace(captured) + "\n",
		"unknown kind":       strings.Replace(captured, "captured", "stolen", 1) + "\n",
		"unknown action":     strings.Replace(captured, "capture\"", "steal\"", 1) + "\n",
		"wrong ID":           strings.Replace(captured, "cap_1", "1", 1) + "\n",
		"other partner":      strings.Replace(captured, "gateway", "courier", 1) + "\n",
		"endless line":       strings.Repeat("x", 100_000) + "\n",
	} {
		dir := t.TempDir()
		path := filepath.Join(dir, "gateway.jsonl")
		if err := os.WriteFile(path, []byte(lines), 0o644); err != nil {
			t.Fatal(err)
		}
		server, err := partners.New(partners.Config{LedgerDir: dir})
		if err == nil {
			server.Close()
			t.Errorf("%s: the ledger was opened", name)
		} else if !strings.Contains(err.Error(), path+": line ") {
			t.Errorf("%s: %v doesn't tell the line", name, err)
		}
	}
}

func TestNothingIsPromisedWhenTheLedgerCannotBeWritten(t *testing.T) {
	t.Parallel()
	w := start(t, partners.Config{})
	w.want(w.do("PUT", "/captures/a", capture("tok_ok")), 200, `{}`)
	w.server.BreakGateway()
	for range 2 {
		w.want(w.do("PUT", "/captures/b", capture("tok_ok")), 500, `{"status":500}`)
		w.want(w.do("POST", "/captures/a/void", ""), 500, `{"status":500}`)
	}
	w.want(w.do("PUT", "/captures/a", capture("tok_ok")), 200, `{"status":"captured"}`) // that is on the disk
	w.want(w.do("GET", "/readyz", ""), 503, `{"status":503}`)
	w.want(w.do("GET", "/summary", ""), 500, `{"status":500}`)
	w.want(w.do("PUT", "/dispatches/k", `{"order":"o1","address":"home"}`), 200, `{}`)
	w.restart()
	w.kinds("capture a captured", "dispatch k dispatched")
}

func TestOnlyOneProcessUsesALedger(t *testing.T) {
	t.Parallel()
	w := start(t, partners.Config{})
	second, err := partners.New(partners.Config{LedgerDir: w.cfg.LedgerDir})
	if err == nil {
		second.Close()
		t.Fatal("a second server opened the same ledger")
	}
	if !strings.Contains(err.Error(), "used by another process") {
		t.Error(err)
	}
	w.restart() // and it is free afterwards
}

func TestFaults(t *testing.T) {
	t.Parallel()
	w := start(t, partners.Config{})
	faults := func(body string) {
		t.Helper()
		w.want(w.do("PUT", "/faults", body), 200, `{}`)
	}

	faults(`{"gateway":{"error_rate":1}}`)
	w.want(w.do("PUT", "/captures/k", capture("tok_ok")), 503, `{"status":503}`)
	w.want(w.do("POST", "/captures/k/void", ""), 503, `{"status":503}`)
	w.kinds()
	w.want(w.do("PUT", "/dispatches/k", `{"order":"o1","address":"home"}`), 200, `{}`) // the courier is well

	faults(`{"gateway":{"lost_rate":1},"courier":{"error_rate":1}}`)
	w.lost(w.do("PUT", "/captures/k", capture("tok_ok")))
	w.lost(w.do("PUT", "/captures/k", capture("tok_ok")))
	w.want(w.do("PUT", "/handovers/k", `{"order":"o1","address":"home","courier":"Ida"}`), 503, `{}`)
	got := w.do("GET", "/faults", "").text
	if want := `{"gateway":{"latency_ms":0,"error_rate":0,"lost_rate":1},"courier":{"latency_ms":0,"error_rate":1,"lost_rate":0}}` + "\n"; got != want {
		t.Errorf("the faults are %s, want %s", got, want)
	}

	faults(`{"courier":{"lost_rate":1}}`)
	w.want(w.do("PUT", "/captures/k", capture("tok_ok")), 200, `{}`)
	w.lost(w.do("POST", "/dispatches/k/void", ""))

	faults(`{"gateway":{"latency_ms":1500}}`)
	slow := make(chan reply, 1)
	go func() { slow <- w.do("PUT", "/captures/l", capture("tok_ok")) }()
	if d := <-w.waits; d != 1500*time.Millisecond {
		t.Errorf("waits %v, want 1.5 s", d)
	}
	faults(`{}`)
	w.want(w.do("POST", "/captures/l/void", ""), 200, `{}`) // a void wins over latency, too
	w.end <- time.Time{}
	w.want(<-slow, 409, `{"status":"voided"}`)

	w.kinds("dispatch k dispatched", "capture k captured", "dispatch k voided", "capture l voided")
}

func TestFaultsAreRepeatableAndAboutAsOftenAsAskedFor(t *testing.T) {
	t.Parallel()
	outcomes := func() string {
		w := start(t, partners.Config{Seed: 7, Faults: partners.Faults{Gateway: partners.Fault{ErrorRate: 0.3}}})
		var got strings.Builder
		for n := range 200 {
			status := w.do("PUT", fmt.Sprintf("/captures/k%d", n), capture("tok_ok")).status
			got.WriteString(map[int]string{200: ".", 503: "x"}[status])
		}
		return got.String()
	}
	first, second := outcomes(), outcomes()
	if first != second || len(first) != 200 {
		t.Errorf("with the same seed\n%s\n%s", first, second)
	}
	if n := strings.Count(first, "x"); n < 30 || n > 90 {
		t.Errorf("%d of 200 failed, want about 60", n)
	}
}

func TestBadRequests(t *testing.T) {
	t.Parallel()
	w := start(t, partners.Config{})
	long := strings.Repeat("x", 201)
	for _, c := range []struct {
		method, path, body string
		want               int
	}{
		{"PUT", "/captures/k", ``, 400},
		{"PUT", "/captures/k", `{`, 400},
		{"PUT", "/captures/k", `[]`, 400},
		{"PUT", "/captures/k", `{"amount":"900"}`, 400},
		{"PUT", "/captures/k", `{"amount":9.5}`, 400},
		{"PUT", "/captures/k", capture("tok_ok") + `{}`, 400},
		{"PUT", "/captures/k", `{"amount":900,"currency":"EUR","token":"tok_ok","order":"o1","tip":1}`, 400},
		{"PUT", "/captures/k", `null`, 422},
		{"PUT", "/captures/k", `{"amount":-1,"currency":"EUR","token":"tok_ok","order":"o1"}`, 422},
		{"PUT", "/captures/k", `{"amount":1000000000001,"currency":"EUR","token":"tok_ok","order":"o1"}`, 422},
		{"PUT", "/captures/k", `{"amount":900,"currency":"eur","token":"tok_ok","order":"o1"}`, 422},
		{"PUT", "/captures/k", `{"amount":900,"token":"tok_ok","order":"o1"}`, 422},
		{"PUT", "/captures/k", `{"amount":900,"currency":"EUR","order":"o1"}`, 422},
		{"PUT", "/captures/k", `{"amount":900,"currency":"EUR","token":"tok_ok"}`, 422},
		{"PUT", "/captures/k", `{"amount":900,"currency":"EUR","token":"` + long + `","order":"o1"}`, 422},
		{"PUT", "/captures/" + long, capture("tok_ok"), 400},
		{"PUT", "/captures/%C3%B6", capture("tok_ok"), 400},
		{"PUT", "/captures/a%20b", capture("tok_ok"), 400},
		{"PUT", "/captures/k", strings.Repeat(" ", 64<<10) + capture("tok_ok"), 413},
		{"POST", "/captures/k/void", `{"amount":1}`, 400},
		{"POST", "/captures/k/void", strings.Repeat(" ", 64<<10+1), 413},
		{"PUT", "/dispatches/k", `{"order":"o1"}`, 422},
		{"PUT", "/dispatches/k", `{"order":"o1","address":"` + long + `"}`, 422},
		{"PUT", "/dispatches/k", `{"order":"o1","address":"a","courier":"Ida"}`, 400},
		{"PUT", "/handovers/k", `{"order":"o1","address":"a"}`, 422},
		{"PUT", "/faults", ``, 400},
		{"PUT", "/faults", `{"bank":{}}`, 400},
		{"PUT", "/faults", `{"gateway":{"error_rate":1.1}}`, 422},
		{"PUT", "/faults", `{"gateway":{"lost_rate":-0.1}}`, 422},
		{"PUT", "/faults", `{"courier":{"latency_ms":60001}}`, 422},
		{"PUT", "/faults", `{"courier":{"latency_ms":-1}}`, 422},
		{"POST", "/captures/k", capture("tok_ok"), 405},
		{"GET", "/captures/k/void", ``, 405},
		{"DELETE", "/ledger", ``, 405},
		{"GET", "/captures", ``, 404},
		{"GET", "/nothing", ``, 404},
	} {
		got := w.do(c.method, c.path, c.body)
		if got.status != c.want || got.typ != "application/problem+json" || got.body["detail"] == "" {
			t.Errorf("%s %.40s %.100s: got %d %s %s, want %d", c.method, c.path, c.body, got.status, got.typ, got.text, c.want)
		}
	}
	w.kinds()

	// 200 characters are 800 bytes here, and that is fine; so is a body that doesn't tell its length.
	body := `{"order":"o1","address":"` + strings.Repeat("🍫", 200) + `"}`
	w.want(w.do("PUT", "/dispatches/k", body), 200, `{"status":"dispatched"}`)
	req, err := http.NewRequest("PUT", w.web.URL+"/captures/k", io.MultiReader(strings.NewReader(strings.Repeat(" ", 64<<10)), strings.NewReader(body)))
	if err != nil {
		t.Fatal(err)
	}
	res, err := w.web.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != 413 {
		t.Errorf("got %s, want 413", res.Status)
	}
}

func TestRequestsUnderWayAreBounded(t *testing.T) {
	t.Parallel()
	w := start(t, partners.Config{MaxInFlight: 1})
	slow := w.begin("PUT", "/captures/k", capture("tok_slow"))
	w.want(w.do("PUT", "/captures/l", capture("tok_ok")), 503, `{"status":503}`)
	w.want(w.do("GET", "/readyz", ""), 200, `{"status":"ready"}`)
	w.end <- time.Time{}
	w.want(<-slow, 200, `{}`)
}

func TestBadConfiguration(t *testing.T) {
	t.Parallel()
	_, err := partners.New(partners.Config{LedgerDir: t.TempDir(), SlowFor: -1, DownFor: -1, StopWithin: -1, MaxInFlight: -1,
		Faults: partners.Faults{Courier: partners.Fault{ErrorRate: 2}}})
	for _, name := range []string{"SlowFor", "DownFor", "StopWithin", "MaxInFlight", "courier.error_rate"} {
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%v doesn't tell %s", err, name)
		}
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := partners.New(partners.Config{LedgerDir: file}); err == nil {
		t.Error("a file is no ledger directory")
	}
}

func TestRunServesUntilItIsStopped(t *testing.T) {
	t.Parallel()
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	waits := make(chan time.Duration, 10)
	addr := make(chan net.Addr, 1)
	cfg := partners.Config{
		HTTPAddr:  "127.0.0.1:0",
		LedgerDir: t.TempDir(),
		Listening: func(a net.Addr) { addr <- a },
		After: func(d time.Duration) <-chan time.Time {
			waits <- d
			return nil // for ever
		},
	}
	ended := make(chan error, 1)
	go func() { ended <- partners.Run(ctx, cfg) }()
	var url string
	select {
	case a := <-addr:
		url = "http://" + a.String()
	case err := <-ended:
		t.Fatal(err)
	}

	put := func(key, token string) (int, error) {
		req, err := http.NewRequest("PUT", url+"/captures/"+key, strings.NewReader(capture(token)))
		if err != nil {
			return 0, err
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			return 0, err
		}
		res.Body.Close()
		return res.StatusCode, nil
	}
	for _, path := range []string{"/livez", "/readyz"} {
		res, err := http.Get(url + path)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != 200 {
			t.Errorf("%s is %s", path, res.Status)
		}
	}
	if status, err := put("a", "tok_ok"); status != 200 {
		t.Fatal(status, err)
	}
	slow, down := make(chan int, 1), make(chan error, 1)
	go func() {
		status, _ := put("b", "tok_slow")
		slow <- status
	}()
	go func() {
		_, err := put("c", "tok_down")
		down <- err
	}()
	<-waits
	<-waits

	// A stop doesn't wait for those who wait: nothing was booked for them.
	stop()
	if status := <-slow; status != 503 {
		t.Errorf("the slow request got %d, want 503", status)
	}
	if err := <-down; err == nil {
		t.Error("tok_down was answered")
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}

	server, err := partners.New(partners.Config{LedgerDir: cfg.LedgerDir}) // it is free again
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	w := httptest.NewRecorder()
	server.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/ledger", nil))
	if lines := strings.Count(w.Body.String(), "\n"); lines != 1 {
		t.Errorf("%d entries, want 1: %s", lines, w.Body)
	}
}

func TestRunTellsWhyItCannotServe(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	cfg := partners.Config{HTTPAddr: taken.Addr().String(), LedgerDir: t.TempDir()}
	if err := partners.Run(context.Background(), cfg); err == nil || !strings.Contains(err.Error(), cfg.HTTPAddr) {
		t.Errorf("%v doesn't tell %s", err, cfg.HTTPAddr)
	}
}
