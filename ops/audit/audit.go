// Package audit proves from outside that the shop keeps its promises. It reads the five databases, the broker and the
// ledger of the payment gateway, changes nothing, and names every promise that is broken, with the order and with what
// led to it.
//
// What must hold within one database is looked at in a snapshot of it, at any time, also in the middle of a storm. What
// must hold across databases is looked at only at rest: the five snapshots are not of one instant.
//
// Everything is walked, nothing is sampled, and little is kept in memory: the logs are walked three times, by stream
// (streams.go), by saga (sagas.go, saga.go) and by message (messages.go), each time side by side with the tables that must
// say the same. Read Run first, then look.
package audit

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"hotchoc/ops/shop"
)

// Defaults of Config.
const (
	DefaultGap  = 5500 * time.Millisecond
	DefaultMost = 100
)

// Config says what to audit. Only the database is needed; what is not named is not looked at, and the report says so.
type Config struct {
	// Database is the Postgres server, as somebody who may read everything reaches it. Each service's database is named
	// like the service.
	Database string
	// Databases are the URLs of databases that are named otherwise or are elsewhere, by service.
	Databases map[string]string
	// Management is the management API of the broker, login included. Without it nobody can tell whether the shop rests.
	Management string
	// VHost is the virtual host of the queues. Default "/".
	VHost string
	// Partners is the payment gateway, which has the ledger. Without it Q2 believes what pay says.
	Partners string

	// Wait is how long to wait for rest. Default 0: if the shop does not rest now, only what holds at any time is looked
	// at. When it does not come to rest in this time, what it is held up by is reported as a violation.
	Wait time.Duration
	// Gap is how far apart the first and the last sample are that show the same rest. Default 5.5 s: the broker counts its
	// messages every 5 s.
	Gap time.Duration
	// Running says not to look for rest at all.
	Running bool

	// Poison are the IDs of the messages that somebody has injected to become dead letters. Default none.
	Poison []string
	// Accepted are the IDs of orders that a client was told are accepted. They must be there.
	Accepted []string
	// Most is how many violations of each invariant are told; all are counted. Default 100.
	Most int
	// Progress is told what is waited for. Default nobody.
	Progress io.Writer
}

// Report is what an audit came to.
type Report struct {
	At   time.Time     `json:"at"`
	Took time.Duration `json:"took_ns"`
	// AtRest says that nothing was on its way, so that everything was looked at. Unrest says why not.
	AtRest bool     `json:"at_rest"`
	Unrest []string `json:"unrest,omitempty"`
	// Checked are the invariants, all of them, in their order.
	Checked    []Invariant `json:"checked"`
	Violations []Violation `json:"violations"`
}

// Invariant is one promise, and how it fared.
type Invariant struct {
	ID       string `json:"id"`
	Sentence string `json:"sentence"`
	// Scope is when it must hold: AnyTime or AtRest.
	Scope string `json:"scope"`
	// Rows is how many events, documents, claims or messages were looked at.
	Rows int64 `json:"rows"`
	// Violated is how often it does not hold. Config.Most of them are in Report.Violations.
	Violated int64 `json:"violated"`
	// Skipped is why it was not looked at, or not in full.
	Skipped string `json:"skipped,omitempty"`
}

// The scopes.
const (
	AnyTime = "any time"
	AtRest  = "at rest"
)

// Violation is one case of a broken promise.
type Violation struct {
	Invariant string `json:"invariant"`
	// Service is where it shows; empty for the broker.
	Service string `json:"service,omitempty"`
	// Saga is the order, if it is about one.
	Saga string `json:"saga,omitempty"`
	What string `json:"what"`
	// Trace is everything that happened to the order, each event after its cause.
	Trace []Event `json:"trace,omitempty"`
}

// Event is a line of a trace.
type Event struct {
	Service   string    `json:"service"`
	Type      string    `json:"type"`
	At        time.Time `json:"at"`
	ID        string    `json:"id"`
	Causation string    `json:"causation"`
	Stream    string    `json:"stream"`
	Version   int64     `json:"version"`
	// Depth is how many events of the trace led to this one.
	Depth int `json:"depth"`
}

// OK tells that no promise is broken, as far as was looked.
func (r Report) OK() bool {
	return !slices.ContainsFunc(r.Checked, func(i Invariant) bool { return i.Violated > 0 })
}

// invariants are the promises, as DOMAIN.md words them.
var invariants = []Invariant{
	{ID: "S1", Scope: AnyTime, Sentence: "versions of a stream are 1..n, event IDs are unique"},
	{ID: "S2", Scope: AnyTime, Sentence: "stock: on hand and reserved are never negative, and what came in less what was consumed; reserved = open reservations"},
	{ID: "S3", Scope: AnyTime, Sentence: "per order at most one capture, refunds <= captures, no refund without a capture"},
	{ID: "S4", Scope: AnyTime, Sentence: "barrier: a step is done or suppressed, never both; undone only after done, and once"},
	{ID: "S5", Scope: AnyTime, Sentence: "an event is in the log if and only if it was put in the outbox"},
	{ID: "S6", Scope: AnyTime, Sentence: "one effect per step and message, with its claim in the inbox"},
	{ID: "S7", Scope: AnyTime, Sentence: "at most one terminal event per order, and none after it"},
	{ID: "S8", Scope: AnyTime, Sentence: "only allowed transitions"},
	{ID: "S9", Scope: AnyTime, Sentence: "causation is a DAG rooted at order.placed, within one saga"},
	{ID: "S10", Scope: AnyTime, Sentence: "nothing forward after a compensation in the same service"},
	{ID: "S11", Scope: AnyTime, Sentence: "each event type only in its owner's log, each event in the stream that its data name"},
	{ID: "S12", Scope: AnyTime, Sentence: "fold(log) = state = views"},
	{ID: "Q1", Scope: AtRest, Sentence: "every accepted order is there once and has ended"},
	{ID: "Q2", Scope: AtRest, Sentence: "captures - refunds = price of completed orders, per order, in pay and at the gateway"},
	{ID: "Q3", Scope: AtRest, Sentence: "what came in - on hand = sold + waste, reserved 0"},
	{ID: "Q4", Scope: AtRest, Sentence: "every event was published and is in the inbox of every step that hears it"},
	{ID: "Q5", Scope: AtRest, Sentence: "no message in any queue; dead letters = the poison that was injected"},
	{ID: "Q6", Scope: AtRest, Sentence: "copies = owner"},
	{ID: "Q7", Scope: AtRest, Sentence: "no timer overdue, nothing held by a closed order"},
	{ID: "Q8", Scope: AtRest, Sentence: "the statuses a client saw are a walk of S8"},
}

// Run makes an audit. An error means that it could not be made; a broken promise is none.
func Run(ctx context.Context, cfg Config) (Report, error) {
	cfg.VHost = cmp.Or(cfg.VHost, "/")
	cfg.Gap = cmp.Or(cfg.Gap, DefaultGap)
	cfg.Most = cmp.Or(cfg.Most, DefaultMost)
	if cfg.Progress == nil {
		cfg.Progress = io.Discard
	}
	begin := time.Now()
	a := &audit{cfg: cfg, rules: newRules(shop.Flows()), found: map[string][]Violation{}, stocks: make(chan shelf, 1), count: map[string]int64{}, rows: map[string]int64{}, skipped: map[string]string{}}
	defer a.close()
	if err := a.connect(); err != nil {
		return Report{}, err
	}
	calm, unrest, err := a.settle(ctx)
	if err != nil {
		return Report{}, err
	}
	if err := a.snapshot(ctx); err != nil {
		return Report{}, err
	}
	if calm != nil {
		unrest = a.sinceThen(*calm)
	}
	a.atRest = calm != nil && unrest == nil
	if err := a.look(ctx, calm); err != nil {
		return Report{}, err
	}
	r := Report{At: begin.UTC(), AtRest: a.atRest, Unrest: unrest, Violations: []Violation{}}
	for _, i := range invariants {
		i.Rows, i.Violated, i.Skipped = a.rows[i.ID], a.count[i.ID], a.skipped[i.ID]
		switch {
		case i.ID == "Q8":
			i.Skipped = "whoever watches orders checks it, see Walk"
		case a.atRest || i.Violated > 0:
		case i.Scope == AtRest:
			i.Skipped = "the shop does not rest"
		case i.ID == "S5" || i.ID == "S9" || i.ID == "S12":
			i.Skipped = "not across services: the shop does not rest"
		}
		r.Checked = append(r.Checked, i)
		r.Violations = append(r.Violations, a.found[i.ID]...)
	}
	if err := a.trace(ctx, r.Violations); err != nil {
		return Report{}, err
	}
	r.Took = time.Since(begin)
	return r, nil
}

// audit is one run.
type audit struct {
	cfg       Config
	rules     *rules
	databases []*database
	atRest    bool
	stocks    chan shelf // from the walk by stream to the walk by saga, which knows what was sold

	mu      sync.Mutex // guards the rest
	found   map[string][]Violation
	count   map[string]int64
	rows    map[string]int64
	skipped map[string]string
}

// look makes all the walks, some side by side.
func (a *audit) look(ctx context.Context, calm *sample) error {
	var ledger gateway
	if a.atRest {
		var err error
		if ledger, err = a.readLedger(ctx); err != nil {
			return err
		}
		if err := a.deadLetters(ctx, *calm); err != nil {
			return err
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, d := range a.databases {
		g.Go(func() error {
			for _, walk := range []func(context.Context, *database) error{a.streams, a.claims, a.outbox, a.views} {
				if err := walk(ctx, d); err != nil {
					return err
				}
			}
			return nil
		})
	}
	g.Go(func() error {
		// One after the other: each needs a connection or two to every database.
		if err := a.sagas(ctx, ledger); err != nil {
			return err
		}
		if err := a.messages(ctx); err != nil || !a.atRest {
			return err
		}
		return a.copies(ctx)
	})
	return g.Wait()
}

// report notes a violation.
func (a *audit) report(invariant, service string, saga uuid.UUID, format string, args ...any) {
	v := Violation{Invariant: invariant, Service: service, What: fmt.Sprintf(format, args...)}
	if saga != uuid.Nil {
		v.Saga = saga.String()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.count[invariant]++; len(a.found[invariant]) < a.cfg.Most {
		a.found[invariant] = append(a.found[invariant], v)
	}
}

// looked notes how many rows an invariant was held against.
func (a *audit) looked(rows int64, ids ...string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, id := range ids {
		a.rows[id] += rows
	}
}

// skip notes that an invariant was not looked at in full.
func (a *audit) skip(id, why string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.skipped[id] = why
}

func (a *audit) say(format string, args ...any) { fmt.Fprintf(a.cfg.Progress, format+"\n", args...) }

// sorted are the keys of a map in order, so that two audits of the same say the same.
func sorted[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }
