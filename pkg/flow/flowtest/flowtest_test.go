package flowtest_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"hotchoc/pkg/contract/deliveryv1"
	"hotchoc/pkg/contract/makev1"
	"hotchoc/pkg/contract/orderv1"
	"hotchoc/pkg/contract/payv1"
	"hotchoc/pkg/event"
	"hotchoc/pkg/flow"
	"hotchoc/pkg/flow/flowtest"
)

// scenario is what this program is to fail at, when it was started by one of its own tests.
var scenario = os.Getenv("FLOWTEST_SCENARIO")

func TestMain(m *testing.M) {
	if scenario != "" {
		flowtest.Main(m, small)
	}
	os.Exit(m.Run())
}

type order struct{ Events int }

type open struct{ Customer string }

var (
	forgetful int
	orders    = flow.NewStream("order", func(o *order, fact proto.Message) {
		if o.Events++; scenario == "not the fold" {
			forgetful++
			o.Events = forgetful
		}
	})
)

// small is an order service with one of each kind of step.
var small = flow.New("order", orders,
	flow.NewView("seen", []proto.Message{&orderv1.OrderPlaced{}}, func(o *order, fact proto.Message, _ event.Envelope) { o.Events++ }),
	flow.Command("open", orders, func(o *order, c open) flow.Outcome {
		if c.Customer == "" {
			return flow.Refuse(flow.Invalid, "nobody", "Who are you?")
		}
		return flow.Emit(&orderv1.OrderPlaced{OrderId: flowtest.Order, Customer: c.Customer}).
			At(time.Unix(100, 0), "deadline", &orderv1.OrderDeadline{OrderId: flowtest.Order})
	}).Emits(&orderv1.OrderPlaced{}),
	flow.Compensate("cancel", "open", orders, func(_ *order, placed *orderv1.OrderPlaced, because flow.Failure) flow.Outcome {
		return flow.Emit(&orderv1.OrderCancelled{OrderId: placed.OrderId, Cause: because.Type, Reason: because.Reason}).Disarm("deadline")
	}).When(&makev1.MakeFailed{}).Emits(&orderv1.OrderCancelled{}),
	flow.On("expire", orders, func(_ *order, timer *orderv1.OrderDeadline) flow.Outcome {
		return flow.Emit(&orderv1.OrderCancelRequested{OrderId: timer.OrderId, By: "deadline"})
	}).Emits(&orderv1.OrderCancelRequested{}),
	flow.On("echo", orders, func(_ *order, placed *orderv1.OrderPlaced) flow.Outcome {
		return flow.Emit(&orderv1.OrderCompleted{OrderId: placed.OrderId})
	}).Emits(&orderv1.OrderCompleted{}),
	flow.Ask("deliver", orders, func(_ context.Context, _ flow.Call, _ *deliveryv1.DeliveryDelivered) (string, error) {
		return "", errors.New("nobody listens")
	}, func(*order, *deliveryv1.DeliveryDelivered, string) flow.Outcome { return flow.Nothing() }).
		Retry(flow.Retry{Attempts: 2, Delays: []time.Duration{time.Second}}).
		GiveUp(nil, func(_ *order, d *deliveryv1.DeliveryDelivered, _ any) flow.Outcome {
			return flow.Emit(&orderv1.OrderCompleted{OrderId: d.OrderId})
		}).Emits(&orderv1.OrderCompleted{}),
)

var (
	placed    = &orderv1.OrderPlaced{OrderId: flowtest.Order, Customer: "ada"}
	completed = &orderv1.OrderCompleted{OrderId: flowtest.Order}
	wished    = &orderv1.OrderCancelRequested{OrderId: flowtest.Order, By: "deadline"}
	cancelled = &orderv1.OrderCancelled{OrderId: flowtest.Order, Cause: "make.failed", Reason: "out_of_stock"}
	failed    = &makev1.MakeFailed{OrderId: flowtest.Order, Reason: "out_of_stock"}
	delivered = &deliveryv1.DeliveryDelivered{OrderId: flowtest.Order}
)

func opened(t *testing.T) *flowtest.Saga {
	s := flowtest.New(t, small)
	s.GivenDone("open", open{"ada"})
	return s
}

func TestASagaIsToldAsGivenWhenThen(t *testing.T) {
	s := flowtest.New(t, small)
	s.WhenDone("open", open{})
	s.ThenRefused("nobody")
	s.WhenDone("open", open{"ada"})
	s.Then(placed)
	s.ThenArmed("order.deadline", true)
	s.ThenBarrier("open", "done")
	if got := flowtest.Doc[order](s, "seen", flowtest.Order); got.Events != 1 {
		t.Errorf("seen %+v", got)
	}

	s.WhenRecorded("order.placed")
	s.Then(completed)
	s.When(placed) // the one in the log, and not another
	s.Then()
	s.When(&orderv1.OrderPlaced{OrderId: flowtest.Order, Customer: "eve"})
	s.Then(completed)
	s.WhenDue("order.deadline")
	s.Then(wished)

	s.When(failed)
	s.Then(cancelled)
	s.ThenArmed("order.deadline", false)
	s.ThenBarrier("open", "undone")

	s.When(delivered)
	s.ThenTrouble("nobody listens")
	s.Attempt(2)
	s.When(delivered)
	s.Then(completed)
	s.When(delivered)
	s.ThenTrouble("nobody listens") // an attempt counts for one message

	const other = "01900000-0000-7000-8000-000000000002"
	s.In(other)
	s.When(&makev1.MakeFailed{OrderId: other})
	s.ThenSuppressed()
	s.ThenBarrier("open", "suppressed")
}

// failing are the ways in which a test that uses the fixture wrongly, or tests what is wrong, must fail.
var failing = map[string]struct {
	test func(*testing.T)
	says string
}{
	"another event":  {func(t *testing.T) { s := opened(t); s.When(failed); s.Then(completed) }, "but want  order.completed"},
	"one event more": {func(t *testing.T) { s := opened(t); s.When(failed); s.Then() }, "but want  nothing"},
	"another field": {func(t *testing.T) {
		s := opened(t)
		s.When(failed)
		s.Then(&orderv1.OrderCancelled{OrderId: flowtest.Order})
	}, "then got  order.cancelled"},
	"nothing after all": {func(t *testing.T) {
		s := opened(t)
		s.When(&makev1.MakeFailed{OrderId: "x"})
		s.When(failed)
		s.Then(cancelled)
	}, "then got  nothing"},
	"trouble":       {func(t *testing.T) { s := opened(t); s.When(delivered); s.Then() }, "delivery.delivered: step \"deliver\" asked under"},
	"given trouble": {func(t *testing.T) { opened(t).Given(delivered) }, "given delivery.delivered: "},
	"given refused": {func(t *testing.T) { flowtest.New(t, small).GivenDone("open", open{}) }, "given open: nobody"},
	"no trouble":    {func(t *testing.T) { s := opened(t); s.When(failed); s.ThenTrouble("") }, "want trouble"},
	"not refused":   {func(t *testing.T) { opened(t).ThenRefused("nobody") }, `want the refusal "nobody"`},
	"not suppressed": {func(t *testing.T) {
		s := opened(t)
		s.Given(failed)
		s.When(&makev1.MakeFailed{OrderId: "x"})
		s.ThenSuppressed()
	}, "was not suppressed"},
	"not armed":       {func(t *testing.T) { flowtest.New(t, small).ThenArmed("order.deadline", true) }, "armed: false, want true"},
	"not due":         {func(t *testing.T) { flowtest.New(t, small).WhenDue("order.deadline") }, "no timer order.deadline is armed"},
	"not recorded":    {func(t *testing.T) { opened(t).WhenRecorded("order.cancelled") }, "there is no order.cancelled in the log"},
	"another barrier": {func(t *testing.T) { opened(t).ThenBarrier("open", "undone") }, `is "done", want "undone"`},
	"no document":     {func(t *testing.T) { flowtest.Doc[order](flowtest.New(t, small), "seen", "x") }, "there is no x in seen"},
	"not heard":       {func(t *testing.T) { flowtest.New(t, small).When(&payv1.PaymentCaptured{OrderId: "x"}) }, "payment.captured cannot be heard here"},
	"not an event":    {func(t *testing.T) { flowtest.New(t, small).When(timestamppb.Now()) }, "is not a declared event"},
	"no key":          {func(t *testing.T) { flowtest.New(t, small).When(&makev1.MakeFailed{}) }, "encode make.failed"},
	"not the fold":    {func(t *testing.T) { opened(t) }, "but the fold of its log is version 1"},
}

func TestScenario(t *testing.T) {
	if s, ok := failing[scenario]; ok {
		s.test(t)
	}
}

// start runs this program as the test of a service, with a scenario.
func start(t *testing.T, scenario string, args ...string) (output string, passed bool) {
	t.Helper()
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), "FLOWTEST_SCENARIO="+scenario)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return string(out), err == nil
}

func TestWhatDoesNotHoldFailsTheTest(t *testing.T) {
	if scenario != "" {
		t.Skip("started by itself")
	}
	for name, f := range failing {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out, passed := start(t, name, "-test.run=^TestScenario$")
			if passed || !strings.Contains(out, f.says) || !strings.Contains(out, "--- FAIL: TestScenario") {
				t.Errorf("passed: %v; it said\n%s\nwant %q", passed, out, f.says)
			}
		})
	}
}

func TestAnEventThatNoTestProducedFailsTheService(t *testing.T) {
	if scenario != "" {
		t.Skip("started by itself")
	}
	out, passed := start(t, "lazy", "-test.skip=.")
	for _, typ := range []string{"order.placed, which its step open", "order.cancelled, which its step cancel", "order.completed, which its step echo"} {
		if want := fmt.Sprintf("no test of order produced %s declares", typ); passed || !strings.Contains(out, want) {
			t.Errorf("passed: %v; it said\n%s\nwant %q", passed, out, want)
		}
	}
	if out, passed := start(t, "diligent"); !passed {
		t.Errorf("all were produced, but it said\n%s", out)
	}
	if out, passed := start(t, "selective", "-test.run=TestNothing"); !passed {
		t.Errorf("only some tests were run, but it said\n%s", out)
	}
}
