package flow_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"hotchoc/pkg/contract/makev1"
	"hotchoc/pkg/contract/orderv1"
	"hotchoc/pkg/contract/payv1"
	"hotchoc/pkg/flow"
	"hotchoc/pkg/store"
)

// bank is an outside party: what it is asked under which key, and how it answers.
type bank struct {
	asked   []string
	capture func(context.Context) (string, error)
	void    func(context.Context) (string, error)
}

// counter is a small pay service that asks a bank, and gives it up after three attempts.
func counter(b *bank) *flow.Flow {
	payments := newPayments()
	void := func(ctx context.Context, c flow.Call) (string, error) {
		b.asked = append(b.asked, "void "+c.Key)
		return b.void(ctx)
	}
	return flow.New("pay", payments,
		flow.Ask("charge", payments, func(ctx context.Context, c flow.Call, p *orderv1.OrderPlaced) (string, error) {
			b.asked = append(b.asked, "capture "+c.Key+" of "+p.Customer+" for "+c.Actor)
			return b.capture(ctx)
		}, func(_ *payment, p *orderv1.OrderPlaced, id string) flow.Outcome {
			return flow.Emit(&payv1.PaymentCaptured{OrderId: p.OrderId, CaptureId: id})
		}).Emits(&payv1.PaymentCaptured{}, &payv1.PaymentFailed{}).
			Retry(flow.Retry{Attempts: 3, Delays: []time.Duration{time.Second}, Timeout: 2 * time.Second}).
			GiveUp(func(ctx context.Context, c flow.Call) (any, error) { return void(ctx, c) },
				func(_ *payment, p *orderv1.OrderPlaced, settled any) flow.Outcome {
					return flow.Emit(&payv1.PaymentFailed{OrderId: p.OrderId, Reason: "unavailable", Detail: settled.(string)})
				}),
		flow.CompensateAsk("refund", "charge", payments, void,
			func(_ *payment, captured *payv1.PaymentCaptured, because flow.Failure, id string) flow.Outcome {
				return flow.Emit(&payv1.PaymentRefunded{OrderId: captured.OrderId, CaptureId: captured.CaptureId, RefundId: id, Reason: because.Reason})
			}).When(&makev1.MakeFailed{}).Emits(&payv1.PaymentRefunded{}))
}

func says(answer string, err error) func(context.Context) (string, error) {
	return func(context.Context) (string, error) { return answer, err }
}

// through lets a message go the whole way: outside, then the door.
func through(t *testing.T, s store.Store, f *flow.Flow, m flow.Message) flow.Verdict {
	t.Helper()
	if !f.Asks(m) {
		return process(s, f, m)[0]
	}
	answered, err := flow.NewDoor(f, s, nil, nil).AskOutside(t.Context(), m)
	if err != nil {
		return flow.Verdict{Err: err}
	}
	return process(s, f, answered)[0]
}

func TestTheAnswerOfTheOutsideIsAnInputOfTheDecision(t *testing.T) {
	b := &bank{capture: says("cap_1", nil), void: says("ref_1", nil)}
	f := counter(b)
	s := store.NewMemory()
	v := through(t, s, f, placed(t, f, 1, ""))
	handled(t, []flow.Verdict{v}, "payment.captured")
	if !strings.Contains(string(v.Events[0].Body), "cap_1") {
		t.Errorf("decided %s", v.Events[0].Body)
	}
	v = through(t, s, f, makeFailed(t, f, 1, "out_of_stock"))
	handled(t, []flow.Verdict{v}, "payment.refunded")
	if body := string(v.Events[0].Body); !strings.Contains(body, "cap_1") || !strings.Contains(body, "ref_1") {
		t.Errorf("decided %s", body)
	}
	key := order(1) + "/charge"
	if want := []string{"capture " + key + " of ada for customer:ada", "void " + key}; !slices.Equal(b.asked, want) {
		t.Errorf("asked %q, want %q: one key for the step and what undoes it", b.asked, want)
	}
}

func TestTheOutsideIsVoidedInAllThreeCases(t *testing.T) {
	b := &bank{capture: says("cap_1", nil), void: says("", nil)}
	f := counter(b)
	s := store.NewMemory()
	never := through(t, s, f, makeFailed(t, f, 1, "cancelled"))
	handled(t, []flow.Verdict{never})
	if !never.Suppressed || len(b.asked) != 1 {
		t.Errorf("got %+v after %v", never, b.asked)
	}
	if v := through(t, s, f, makeFailed(t, f, 1, "again")); v.Err != nil || len(v.Events) != 0 || len(b.asked) != 2 {
		t.Errorf("got %+v after %v", v, b.asked)
	}
	if v := through(t, s, f, placed(t, f, 1, "")); !v.Suppressed {
		t.Errorf("got %+v", v)
	}
}

func TestAnUnknownOutcomeIsNoDecision(t *testing.T) {
	b := &bank{capture: says("", errors.New("no answer"))}
	f := counter(b)
	s := store.NewMemory()
	m := placed(t, f, 1, "")
	v := through(t, s, f, m)
	if want := `step "charge" asked under ` + order(1) + `/charge: no answer`; v.Err == nil || v.Err.Error() != want {
		t.Errorf("got %v, want %s", v.Err, want)
	}
	b.capture = func(context.Context) (string, error) { panic("the wire is on fire") }
	if v := through(t, s, f, m); v.Err == nil || !strings.Contains(v.Err.Error(), "panic: the wire is on fire") {
		t.Errorf("got %+v", v)
	}
	b.capture = says("cap_1", nil)
	handled(t, []flow.Verdict{through(t, s, f, m)}, "payment.captured")
}

func TestOnlyACallThatWasNeverMadeSaysThatTheOutsideIsAway(t *testing.T) {
	refused := &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}
	for _, c := range []struct {
		err  error
		away bool
	}{
		{refused, true},
		{fmt.Errorf("capture: %w", &url.Error{Op: "Put", URL: "http://gateway", Err: refused}), true},
		{&net.OpError{Op: "read", Net: "tcp", Err: errors.New("connection reset")}, false}, // it may have been done
		{context.DeadlineExceeded, false},
		{io.EOF, false},
	} {
		got := flow.Away(c.err)
		if errors.Is(got, flow.ErrAway) != c.away || !errors.Is(got, c.err) {
			t.Errorf("%v became %v", c.err, got)
		}
	}
	if flow.Away(nil) != nil {
		t.Error("no error became one")
	}
}

func TestACallHasItsTimeAndDoesNotEndWithTheService(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // in a bubble with its own clock
		b := &bank{}
		f := counter(b)
		began := time.Now()
		b.capture = func(ctx context.Context) (string, error) {
			<-ctx.Done()
			return "", ctx.Err()
		}
		stopped, stop := context.WithCancel(t.Context())
		stop()
		_, err := flow.NewDoor(f, store.NewMemory(), nil, nil).AskOutside(stopped, placed(t, f, 1, ""))
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != 2*time.Second {
			t.Errorf("got %v after %v", err, time.Since(began))
		}
	})
}

func TestAStepIsGivenUpWhenItsBudgetIsSpent(t *testing.T) {
	key := order(1) + "/charge"
	capture, void := "capture "+key+" of ada for customer:ada", "void "+key
	for _, c := range []struct {
		name    string
		attempt int
		capture error
		void    error
		asked   []string
		want    []string
		trouble string
	}{
		{"not yet", 2, errors.New("no answer"), nil, []string{capture}, nil, "no answer"},
		{"the last attempt succeeds", 3, nil, nil, []string{capture}, []string{"payment.captured"}, ""},
		{"the last attempt fails", 3, errors.New("no answer"), nil, []string{capture, void}, []string{"payment.failed"}, ""},
		{"the void fails", 3, errors.New("no answer"), errors.New("deaf"), []string{capture, void}, nil, "void after giving up: deaf"},
		{"the void fails again", 4, nil, errors.New("deaf"), []string{void}, nil, "void after giving up: deaf"},
		{"the void succeeds later", 5, nil, nil, []string{void}, []string{"payment.failed"}, ""},
	} {
		b := &bank{capture: says("cap_1", c.capture), void: says("nothing was charged", c.void)}
		f := counter(b)
		m := placed(t, f, 1, "")
		m.Attempt = c.attempt
		v := through(t, store.NewMemory(), f, m)
		if !slices.Equal(b.asked, c.asked) {
			t.Errorf("%s: asked %q, want %q", c.name, b.asked, c.asked)
		}
		if c.trouble != "" {
			if v.Err == nil || !strings.Contains(v.Err.Error(), c.trouble) {
				t.Errorf("%s: got %+v, want %q", c.name, v, c.trouble)
			}
			continue
		}
		handled(t, []flow.Verdict{v}, c.want...)
		if c.want[0] == "payment.failed" && !strings.Contains(string(v.Events[0].Body), "nothing was charged") {
			t.Errorf("%s: decided %s", c.name, v.Events[0].Body)
		}
	}
}

func TestAStepThatAsksNobodyIsGivenUpAfterItsBudget(t *testing.T) {
	payments := newPayments()
	f := flow.New("pay", payments, flow.On("charge", payments, charge).Emits(&payv1.PaymentCaptured{}, &payv1.PaymentFailed{}).
		Retry(flow.Retry{Attempts: 3, Delays: []time.Duration{time.Second}}).
		GiveUp(nil, func(_ *payment, p *orderv1.OrderPlaced, _ any) flow.Outcome {
			return flow.Emit(&payv1.PaymentFailed{OrderId: p.OrderId, Reason: "unavailable"})
		}))
	s := store.NewMemory()
	m := placed(t, f, 1, "too early")
	for m.Attempt = 1; m.Attempt <= 3; m.Attempt++ {
		if f.Asks(m) {
			t.Errorf("attempt %d asks", m.Attempt)
		}
		if v := through(t, s, f, m); v.Err == nil {
			t.Errorf("attempt %d: %+v", m.Attempt, v)
		}
	}
	handled(t, []flow.Verdict{through(t, s, f, m)}, "payment.failed")
	if got := s.Barrier(store.BarrierKey{Saga: m.Saga, Step: "charge"}); got != "" {
		t.Errorf("the barrier is %q", got)
	}
}

// A message can be there twice: a crash between its republication and its ack leaves a copy behind. Each has its own count
// of attempts.
func TestACopyThatGivesUpVoidsNothingThatIsRecorded(t *testing.T) {
	b := &bank{capture: says("cap_1", nil), void: says("ref_1", nil)}
	f, s := counter(b), store.NewMemory()
	m := placed(t, f, 1, "")
	handled(t, []flow.Verdict{through(t, s, f, m)}, "payment.captured")
	m.Attempt = 4
	v := through(t, s, f, m)
	if want := []string{"capture " + order(1) + "/charge of ada for customer:ada"}; !v.Duplicate || !slices.Equal(b.asked, want) {
		t.Errorf("got %+v, asked %q, want %q", v, b.asked, want)
	}
}

func TestACopyThatIsAnsweredBeforeAnotherGivesUpIsNotRecordedAfter(t *testing.T) {
	b := &bank{capture: says("cap_1", nil), void: says("", errors.New("no answer"))}
	f, s := counter(b), store.NewMemory()
	m := placed(t, f, 1, "")
	answered, err := flow.NewDoor(f, s, nil, nil).AskOutside(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	last := m
	last.Attempt = 4
	if v := through(t, s, f, last); v.Err == nil {
		t.Errorf("the void failed, but the verdict is %+v", v)
	}
	if v := process(s, f, answered)[0]; v.Err == nil || len(s.Log()) != 0 {
		t.Errorf("got %+v: its key may be void", v)
	}
	b.void = says("ref_1", nil)
	handled(t, []flow.Verdict{through(t, s, f, last)}, "payment.failed")
	if v := process(s, f, answered)[0]; !v.Duplicate {
		t.Errorf("got %+v", v)
	}
}

func TestTheOutsideMayAnswerNothingAtAll(t *testing.T) {
	payments := newPayments()
	silent := flow.New("pay", payments,
		flow.Ask("charge", payments, func(context.Context, flow.Call, *orderv1.OrderPlaced) (any, error) { return nil, nil },
			func(_ *payment, p *orderv1.OrderPlaced, answer any) flow.Outcome {
				if answer != nil {
					t.Errorf("got %v", answer)
				}
				return flow.Emit(&payv1.PaymentCaptured{OrderId: p.OrderId})
			}).Emits(&payv1.PaymentCaptured{}))
	if v := through(t, store.NewMemory(), silent, placed(t, silent, 1, "")); v.Err != nil || len(v.Events) != 1 {
		t.Errorf("got %+v", v)
	}
}
