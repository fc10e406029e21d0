package flow_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"hotchoc/pkg/event"
	"hotchoc/pkg/flow"
	"hotchoc/pkg/store"
)

// entrance is an intake that runs over a store whose commits the test lets pass one by one. It is for bubbles of
// synctest, where Wait returns when everybody waits for somebody.
type entrance struct {
	*flow.Intake
	t       *testing.T
	flow    *flow.Flow
	store   *hooked
	commits chan struct{} // one is taken per commit; closed: all pass
	stop    context.CancelFunc
	stopped chan struct{}
	sizes   []int // of the batches
	lines   *observer.ObservedLogs
}

func enter(t *testing.T, f *flow.Flow, cfg flow.IntakeConfig) *entrance {
	e := &entrance{t: t, flow: f, store: &hooked{Memory: store.NewMemory()}, commits: make(chan struct{}), stopped: make(chan struct{})}
	e.store.commit = func(really func() error) error {
		<-e.commits
		return really()
	}
	observed := cfg.Observed
	cfg.Observed = func(batch []flow.Message, verdicts []flow.Verdict, took time.Duration) {
		e.sizes = append(e.sizes, len(batch))
		if observed != nil {
			observed(batch, verdicts, took)
		}
	}
	core, lines := observer.New(zapcore.DebugLevel)
	e.lines = lines
	e.Intake = flow.NewIntake(f, flow.NewDoor(f, e.store, nil, nil), zap.New(core), cfg)
	ctx, stop := context.WithCancel(context.Background())
	e.stop = stop
	go func() {
		if err := e.Run(ctx); err != nil {
			t.Error(err)
		}
		close(e.stopped)
	}()
	synctest.Wait()
	return e
}

// take hands a message in and returns its verdict when it comes.
func (e *entrance) take(m flow.Message) <-chan flow.Verdict {
	verdict := make(chan flow.Verdict, 2)
	e.Take(context.Background(), m, func(v flow.Verdict) { verdict <- v })
	return verdict
}

// end lets everything pass and waits for the end.
func (e *entrance) end() {
	close(e.commits)
	e.stop()
	<-e.stopped
}

// settled returns the verdict, which must be there.
func settled(t *testing.T, verdict <-chan flow.Verdict) flow.Verdict {
	t.Helper()
	synctest.Wait()
	select {
	case v := <-verdict:
		if len(verdict) > 0 {
			t.Errorf("it was settled twice")
		}
		return v
	default:
		t.Error("it is not settled")
		return flow.Verdict{}
	}
}

func TestMessagesThatArriveDuringACommitShareTheNextOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := desk()
		e := enter(t, f, flow.IntakeConfig{})
		first := e.take(placed(t, f, 0, "ok"))
		synctest.Wait() // it is not held back: its commit is running
		var next []<-chan flow.Verdict
		for n := range 5 {
			next = append(next, e.take(placed(t, f, n+1, "ok")))
		}
		synctest.Wait()
		if len(e.sizes) != 0 || len(first) != 0 {
			t.Errorf("batches %v before the first commit", e.sizes)
		}
		e.commits <- struct{}{}
		handled(t, []flow.Verdict{settled(t, first)}, "payment.captured")
		for _, verdict := range next {
			if len(verdict) != 0 {
				t.Error("it was settled before its commit")
			}
		}
		e.commits <- struct{}{}
		for _, verdict := range next {
			handled(t, []flow.Verdict{settled(t, verdict)}, "payment.captured")
		}
		if !slices.Equal(e.sizes, []int{1, 5}) || e.store.begun != 2 {
			t.Errorf("batches of %v in %d transactions, want 1 and 5", e.sizes, e.store.begun)
		}
		e.end()
	})
}

// TestAfterABatchOfSeveralTheIntakeRests is about when the next commit begins, in the time of the bubble.
func TestAfterABatchOfSeveralTheIntakeRests(t *testing.T) {
	const ms = time.Millisecond
	for name, test := range map[string]struct {
		batch   int           // messages in the batch before
		took    time.Duration // by its commit
		pause   time.Duration // until the first of the next messages comes; the others come in steps of 1 ms
		next    int
		want    time.Duration // from the end of the batch before to the next commit
		commits []int
	}{
		"as long as the batch took":            {batch: 5, took: 4 * ms, pause: 1 * ms, next: 2, want: 4 * ms, commits: []int{1, 5, 2}},
		"not longer than its limit":            {batch: 5, took: 500 * ms, pause: 1 * ms, next: 3, want: 10 * ms, commits: []int{1, 5, 3}},
		"not after its time":                   {batch: 5, took: 4 * ms, pause: 5 * ms, next: 1, want: 5 * ms, commits: []int{1, 5, 1}},
		"not when enough wait":                 {batch: 70, took: 4 * ms, pause: 0, next: 64, want: 0, commits: []int{1, 70, 64}},
		"not after few: they came by accident": {batch: 2, took: 4 * ms, pause: 1 * ms, next: 1, want: 1 * ms, commits: []int{1, 2, 1}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := desk()
				var ends []time.Time // of the commits
				e := enter(t, f, flow.IntakeConfig{Observed: func([]flow.Message, []flow.Verdict, time.Duration) { ends = append(ends, time.Now()) }})
				n := 0
				take := func() {
					e.take(placed(t, f, n, "ok"))
					n++
				}
				take()
				synctest.Wait() // its commit runs; the others collect
				for range test.batch {
					take()
				}
				e.commits <- struct{}{}
				synctest.Wait()
				time.Sleep(test.took)
				if test.pause == 0 {
					for range test.next {
						take()
					}
				}
				close(e.commits) // from here on a commit takes no time
				if test.pause > 0 {
					time.Sleep(test.pause)
					for range test.next {
						take()
						time.Sleep(ms)
					}
				}
				time.Sleep(time.Second)
				e.stop()
				<-e.stopped
				if len(ends) != 3 || !slices.Equal(e.sizes, test.commits) {
					t.Fatalf("batches of %v, want %v", e.sizes, test.commits)
				}
				if got := ends[2].Sub(ends[1]); got != test.want {
					t.Errorf("the next commit came after %v, want %v", got, test.want)
				}
			})
		})
	}
}

func TestABatchHasItsLimitAndWhoComesThenWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := desk()
		e := enter(t, f, flow.IntakeConfig{BatchMax: 3})
		verdicts := []<-chan flow.Verdict{e.take(placed(t, f, 0, "ok"))}
		synctest.Wait()
		var taken atomic.Int64
		more := make(chan (<-chan flow.Verdict), 8)
		go func() {
			for n := range 5 {
				more <- e.take(placed(t, f, n+1, "ok"))
				taken.Add(1)
			}
		}()
		synctest.Wait()
		if n := taken.Load(); n != 3 {
			t.Errorf("%d were taken during a commit, want a batch", n)
		}
		e.commits <- struct{}{}
		synctest.Wait()
		if n := taken.Load(); n != 5 {
			t.Errorf("%d were taken during the second commit, want all", n)
		}
		e.commits <- struct{}{}
		e.commits <- struct{}{}
		synctest.Wait()
		for range 5 {
			verdicts = append(verdicts, <-more)
		}
		for _, verdict := range verdicts {
			handled(t, []flow.Verdict{settled(t, verdict)}, "payment.captured")
		}
		if !slices.Equal(e.sizes, []int{1, 3, 2}) {
			t.Errorf("batches of %v, want 1, 3 and 2", e.sizes)
		}
		e.end()
	})
}

func TestThereIsALimitToTheCallsToTheOutside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		answers := make(chan struct{})
		var asked atomic.Int64
		payments := newPayments()
		f := flow.New("pay", payments, asking(payments, func(context.Context) error {
			asked.Add(1)
			<-answers
			return nil
		}), listening(payments))
		e := enter(t, f, flow.IntakeConfig{AsksMax: 2})
		var verdicts []<-chan flow.Verdict
		verdicts = append(verdicts, e.take(placed(t, f, 1, "")), e.take(placed(t, f, 2, "")))
		waits := make(chan (<-chan flow.Verdict), 1)
		go func() { waits <- e.take(placed(t, f, 3, "")) }()
		synctest.Wait()
		if n := asked.Load(); n != 2 || len(waits) != 0 {
			t.Errorf("%d calls at once, want 2", n)
		}
		// Nobody has to wait for the outside who does not ask.
		other := e.take(makeFailed(t, f, 9, "out_of_stock"))
		synctest.Wait()
		e.commits <- struct{}{}
		handled(t, []flow.Verdict{settled(t, other)})

		answers <- struct{}{}
		synctest.Wait()
		if n := asked.Load(); n != 3 {
			t.Errorf("%d calls, want the third", n)
		}
		// Who cannot wait any longer is refused.
		impatient, leave := context.WithCancel(context.Background())
		refused := make(chan flow.Verdict, 1)
		go e.Take(impatient, placed(t, f, 4, ""), func(v flow.Verdict) { refused <- v })
		synctest.Wait()
		leave()
		if v := settled(t, refused); !errors.Is(v.Err, flow.ErrStopped) || !errors.Is(v.Err, store.ErrUnavailable) {
			t.Errorf("got %+v", v)
		}
		close(answers)
		close(e.commits)
		synctest.Wait()
		for _, verdict := range append(verdicts, <-waits) {
			handled(t, []flow.Verdict{settled(t, verdict)}, "payment.captured")
		}
		e.stop()
		<-e.stopped
	})
}

func TestAnUnknownOutcomeDoesNotTouchTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		payments := newPayments()
		f := flow.New("pay", payments, asking(payments, func(context.Context) error { return errors.New("no answer") }))
		e := enter(t, f, flow.IntakeConfig{})
		if v := settled(t, e.take(placed(t, f, 1, ""))); v.Err == nil || errors.Is(v.Err, store.ErrUnavailable) {
			t.Errorf("got %+v", v)
		}
		if e.store.begun != 0 {
			t.Error("there was a transaction")
		}
		if lines := e.lines.FilterMessage("trouble").All(); len(lines) != 1 || lines[0].ContextMap()["event"] != "order.placed" {
			t.Errorf("logged %+v", e.lines.All())
		}
		e.end()
	})
}

func TestTheEndSettlesEverythingThatWasTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		payments := newPayments()
		answers := make(chan struct{})
		f := flow.New("pay", payments, asking(payments, func(ctx context.Context) error {
			select {
			case <-answers:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}), listening(payments))
		e := enter(t, f, flow.IntakeConfig{})
		committing := e.take(makeFailed(t, f, 1, "out_of_stock"))
		synctest.Wait()
		queued, asks := e.take(makeFailed(t, f, 2, "out_of_stock")), e.take(placed(t, f, 3, ""))
		e.stop()
		synctest.Wait()
		select {
		case <-e.stopped:
			t.Error("it ended with work in hand")
		default:
		}
		e.commits <- struct{}{}
		handled(t, []flow.Verdict{settled(t, committing)})
		e.commits <- struct{}{}
		handled(t, []flow.Verdict{settled(t, queued)})
		answers <- struct{}{} // a call is not cut off
		synctest.Wait()
		e.commits <- struct{}{}
		handled(t, []flow.Verdict{settled(t, asks)}, "payment.captured")
		<-e.stopped

		for _, late := range []flow.Message{makeFailed(t, f, 4, "out_of_stock"), placed(t, f, 5, "")} {
			if v := settled(t, e.take(late)); !errors.Is(v.Err, flow.ErrStopped) || !errors.Is(v.Err, store.ErrUnavailable) {
				t.Errorf("after the end: %+v", v)
			}
		}
		if v := e.Do(context.Background(), makeFailed(t, f, 6, "out_of_stock")); !errors.Is(v.Err, flow.ErrStopped) {
			t.Errorf("after the end: %+v", v)
		}
	})
}

func TestWhatIsCommittedIsToldBeforeAnybodyGetsAVerdict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := desk()
		var told []string
		e := enter(t, f, flow.IntakeConfig{
			Committed: func(events []event.Record) { told = append(told, fmt.Sprint(types(events))) },
			Observed: func(_ []flow.Message, verdicts []flow.Verdict, _ time.Duration) {
				told = append(told, fmt.Sprint("observed ", len(verdicts)))
			},
		})
		settle := func(flow.Verdict) { told = append(told, "settled") }
		m := placed(t, f, 1, "ok")
		for _, batch := range [][]flow.Message{{m}, {placed(t, f, 2, "ok"), placed(t, f, 3, "nothing"), placed(t, f, 4, "fail"), placed(t, f, 5, "panic")}} {
			for _, m := range batch {
				e.Take(context.Background(), m, settle)
			}
		}
		close(e.commits)
		synctest.Wait()
		e.Take(context.Background(), m, settle) // a duplicate
		synctest.Wait()
		e.stop()
		<-e.stopped
		want := []string{
			"[payment.captured]", "observed 1", "settled",
			"[payment.captured payment.failed]", "observed 4", "settled", "settled", "settled", "settled",
			"observed 1", "settled", // nothing new
		}
		// The first five may have come as one batch or as two.
		if one := []string{"[payment.captured payment.captured payment.failed]", "observed 5", "settled", "settled", "settled", "settled", "settled", "observed 1", "settled"}; !slices.Equal(told, want) && !slices.Equal(told, one) {
			t.Errorf("told %q", told)
		}
	})
}

func TestACommandWaitsForItsVerdict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := door()
		e := enter(t, f, flow.IntakeConfig{})
		close(e.commits)
		command := func(name string) flow.Message {
			return flow.NewCommand("open", event.NewID(), event.NewID(), "customer:ada", open{name})
		}
		handled(t, []flow.Verdict{e.Do(context.Background(), command("ada"))}, "order.placed")
		if v := e.Do(context.Background(), command("")); v.Refusal == nil || v.Refusal.Name != "no-name" {
			t.Errorf("got %+v", v)
		}
		for _, message := range []string{"handled", "refused"} {
			if n := e.lines.FilterMessage(message).Len(); n != 1 {
				t.Errorf("%d lines say %q", n, message)
			}
		}
		e.stop()
		<-e.stopped
	})
}
