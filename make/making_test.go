package making

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"hotchoc/pkg/contract"
	"hotchoc/pkg/contract/deliveryv1"
	"hotchoc/pkg/contract/makev1"
	"hotchoc/pkg/contract/menuv1"
	"hotchoc/pkg/contract/orderv1"
	"hotchoc/pkg/contract/payv1"
	"hotchoc/pkg/contract/shopv1"
	"hotchoc/pkg/event"
	"hotchoc/pkg/flow"
	"hotchoc/pkg/flow/flowtest"
)

func TestMain(m *testing.M) { flowtest.Main(m, Flow(Machine{})) }

func amount(name string, n int64) *shopv1.Ingredient {
	return &shopv1.Ingredient{Name: name, Amount: n}
}

func cups(sku string, quantity int32) *shopv1.Line { return &shopv1.Line{Sku: sku, Quantity: quantity} }

var (
	counter = &shopv1.Handover{Type: "counter"}

	classic = &menuv1.ItemAdded{Sku: "classic", Recipe: []*shopv1.Ingredient{amount("milk", 200), amount("chocolate", 30)}}
	dark    = &menuv1.ItemAdded{Sku: "dark", Recipe: []*shopv1.Ingredient{amount("milk", 180), amount("dark chocolate", 40)}}
	lava    = &menuv1.ItemAdded{Sku: "lava", Recipe: []*shopv1.Ingredient{amount("chili", 5)}}

	wantsOut   = &orderv1.OrderCancelRequested{OrderId: flowtest.Order, By: "customer"}
	cancelled  = &makev1.MakeFailed{OrderId: flowtest.Order, Reason: "cancelled", Detail: "cancelled by the customer"}
	tooLate    = &makev1.MakeCancelRejected{OrderId: flowtest.Order, Detail: "too late: the drinks are being made"}
	nobodyHome = &deliveryv1.DeliveryFailed{OrderId: flowtest.Order, Reason: "nobody_home", Detail: "rang twice"}
)

func paid(lines ...*shopv1.Line) *payv1.PaymentCaptured {
	return &payv1.PaymentCaptured{OrderId: flowtest.Order, Customer: "ada", CaptureId: "cap_1", Lines: lines, Handover: counter}
}

func reserved(lines []*shopv1.Line, ingredients ...*shopv1.Ingredient) *makev1.StockReserved {
	return &makev1.StockReserved{Location: "main", OrderId: flowtest.Order, Ingredients: ingredients, Lines: lines, Handover: counter}
}

func consumed(ingredients ...*shopv1.Ingredient) *makev1.StockConsumed {
	return &makev1.StockConsumed{Location: "main", OrderId: flowtest.Order, Ingredients: ingredients}
}

func released(ingredients ...*shopv1.Ingredient) *makev1.StockReleased {
	return &makev1.StockReleased{Location: "main", OrderId: flowtest.Order, Ingredients: ingredients}
}

func depleted(name string, left int64) *makev1.StockDepleted {
	return &makev1.StockDepleted{Location: "main", Ingredient: name, Available: left}
}

// stocked is a kitchen with the recipes of classic, dark and lava, and with these goods.
func stocked(t *testing.T, goods ...Replenish) *flowtest.Saga {
	t.Helper()
	s := flowtest.New(t, Flow(Machine{}))
	s.Given(classic, dark, lava)
	for _, g := range goods {
		s.GivenDone("replenish", g)
	}
	return s
}

// full is a kitchen that lacks nothing.
func full(t *testing.T) *flowtest.Saga {
	t.Helper()
	return stocked(t, Replenish{"milk", 10_000}, Replenish{"chocolate", 1000}, Replenish{"dark chocolate", 1000}, Replenish{"chili", 100})
}

func kept(s *flowtest.Saga, ingredient string) Kept {
	return flowtest.Doc[Stock](s, flow.States, "stock/main").Ingredients[ingredient]
}

func TestTheIngredientsOfAllLinesAreReserved(t *testing.T) {
	s := full(t)
	lines := []*shopv1.Line{cups("classic", 2), cups("dark", 1)}
	s.When(paid(lines...))
	s.Then(reserved(lines, amount("chocolate", 60), amount("dark chocolate", 40), amount("milk", 2*200+180)))
	s.ThenBarrier("reserve", "done")
	if got := kept(s, "milk"); got != (Kept{OnHand: 10_000, Reserved: 580, Replenished: 10_000}) {
		t.Errorf("milk: %+v", got)
	}
}

func TestWhatIsNotThereFailsTheOrderAndIsSaidOnce(t *testing.T) {
	s := stocked(t, Replenish{"milk", 100}, Replenish{"chocolate", 30})
	s.When(paid(cups("classic", 2)))
	s.Then(
		&makev1.MakeFailed{OrderId: flowtest.Order, Reason: "out_of_stock", Detail: "chocolate: 60 needed, 30 left; milk: 400 needed, 100 left"},
		depleted("milk", 100), // the chocolate is enough for a cup
	)
	s.ThenBarrier("reserve", "")

	const next = "01900000-0000-7000-8000-000000000002"
	s.In(next)
	again := paid(cups("classic", 1))
	again.OrderId = next
	s.When(again)
	s.Then(&makev1.MakeFailed{OrderId: next, Reason: "out_of_stock", Detail: "milk: 200 needed, 100 left"})
	if got := kept(s, "milk"); got != (Kept{OnHand: 100, Replenished: 100, Depleted: true}) {
		t.Errorf("milk: %+v", got)
	}
}

func TestALargeOrderDoesNotDepleteWhatIsEnoughForACup(t *testing.T) {
	s := stocked(t, Replenish{"milk", 500}, Replenish{"chocolate", 1000})
	s.When(paid(cups("classic", 3)))
	s.Then(&makev1.MakeFailed{OrderId: flowtest.Order, Reason: "out_of_stock", Detail: "milk: 600 needed, 500 left"})
}

func TestAnIngredientThatNeverCameIsOut(t *testing.T) {
	s := stocked(t, Replenish{"milk", 200})
	s.When(paid(cups("classic", 1)))
	s.Then(&makev1.MakeFailed{OrderId: flowtest.Order, Reason: "out_of_stock", Detail: "chocolate: 30 needed, 0 left"}, depleted("chocolate", 0))
}

func TestTheLastCupDepletesWhatItTakes(t *testing.T) {
	s := stocked(t, Replenish{"milk", 400}, Replenish{"chocolate", 89})
	lines := []*shopv1.Line{cups("classic", 2)}
	s.When(paid(lines...))
	s.Then(reserved(lines, amount("chocolate", 60), amount("milk", 400)), depleted("chocolate", 29), depleted("milk", 0))
}

func TestTheLastCupButOneDepletesNothing(t *testing.T) {
	s := stocked(t, Replenish{"milk", 600}, Replenish{"chocolate", 90})
	lines := []*shopv1.Line{cups("classic", 2)}
	s.When(paid(lines...))
	s.Then(reserved(lines, amount("chocolate", 60), amount("milk", 400)))
}

func TestTheRecipeIsWaitedForAndThenTheOrderIsGivenUp(t *testing.T) {
	s := flowtest.New(t, Flow(Machine{}))
	s.GivenDone("replenish", Replenish{"chili", 100})
	for attempt := 1; attempt <= flow.Forward.Attempts; attempt++ {
		s.Attempt(attempt)
		s.When(paid(cups("lava", 1)))
		s.ThenTrouble("the recipe of lava has not come yet")
	}
	s.Attempt(flow.Forward.Attempts + 1)
	s.When(paid(cups("lava", 1)))
	s.Then(&makev1.MakeFailed{OrderId: flowtest.Order, Reason: "out_of_stock", Detail: "there is no recipe for what was ordered"})
	s.ThenBarrier("reserve", "")
	s.Given(lava)
	s.When(paid(cups("lava", 1)))
	s.Then() // given up is given up
}

func TestTheRecipeThatCameLateIsUsed(t *testing.T) {
	s := stocked(t, Replenish{"spice", 100})
	s.When(paid(cups("winter", 1)))
	s.ThenTrouble("the recipe of winter")
	s.Given(&menuv1.ItemAdded{Sku: "winter", Recipe: []*shopv1.Ingredient{amount("spice", 5)}})
	s.Attempt(2)
	lines := []*shopv1.Line{cups("winter", 1)}
	s.When(paid(lines...))
	s.Then(reserved(lines, amount("spice", 5)))
}

func TestARecipeIsTheNewestAndStaysWhenTheItemIsRetired(t *testing.T) {
	s := full(t)
	s.Given(&menuv1.ItemEdited{Sku: "classic", Recipe: []*shopv1.Ingredient{amount("milk", 250)}}, &menuv1.ItemRetired{Sku: "classic", Recipe: []*shopv1.Ingredient{amount("milk", 250)}})
	lines := []*shopv1.Line{cups("classic", 1)}
	s.When(paid(lines...))
	s.Then(reserved(lines, amount("milk", 250)))

	s = full(t)
	for _, late := range []struct {
		version int64
		fact    proto.Message
	}{
		{4, &menuv1.ItemEdited{Sku: "classic", Recipe: []*shopv1.Ingredient{amount("milk", 300)}}},
		{3, &menuv1.ItemEdited{Sku: "classic", Recipe: []*shopv1.Ingredient{amount("milk", 1)}}},
	} {
		arrives(t, s, late.version, late.fact)
	}
	s.When(paid(lines...))
	s.Then(reserved(lines, amount("milk", 300)))
}

// arrives lets an event arrive as this version of its stream, whatever came before it.
func arrives(t *testing.T, s *flowtest.Saga, version int64, fact proto.Message) {
	t.Helper()
	e, _ := contract.Of(fact)
	body, err := contract.Marshal(fact)
	if err != nil {
		t.Fatal(err)
	}
	f := Flow(Machine{})
	m, err := f.Accept(event.Record{Body: body, Envelope: event.Envelope{
		ID: event.NewID(), Type: e.Type, Schema: 1, Source: e.Owner, Stream: e.StreamOf(fact), Version: version, Saga: uuid.MustParse(flowtest.Order),
	}})
	if err != nil {
		t.Fatal(err)
	}
	if v := flow.NewDoor(f, s.Store(), nil, nil).Process(context.Background(), []flow.Message{m})[0]; v.Err != nil {
		t.Fatal(v.Err)
	}
}

func TestACancelBeforeTheReservationWinsAndBarsIt(t *testing.T) {
	s := full(t)
	s.When(wantsOut)
	s.Then(cancelled)
	s.ThenBarrier("reserve", "suppressed")
	s.When(wantsOut)
	s.Then() // won once
	s.When(paid(cups("classic", 1)))
	s.ThenSuppressed()
	s.ThenBarrier("reserve", "suppressed")
	if got := kept(s, "milk"); got.Reserved != 0 {
		t.Errorf("milk: %+v", got)
	}
}

func TestTheDeadlineCancelsAsTheCustomerDoes(t *testing.T) {
	s := full(t)
	s.When(&orderv1.OrderCancelRequested{OrderId: flowtest.Order, By: "deadline"})
	s.Then(&makev1.MakeFailed{OrderId: flowtest.Order, Reason: "cancelled", Detail: "cancelled by the deadline"})
}

func TestACancelAfterTheReservationIsTooLate(t *testing.T) {
	s := full(t)
	s.Given(paid(cups("classic", 1)))
	s.When(wantsOut)
	s.Then(tooLate)
	s.ThenBarrier("reserve", "done")
	s.WhenRecorded("stock.reserved")
	s.Then(
		&makev1.DrinkMade{OrderId: flowtest.Order, Lines: []*shopv1.Line{cups("classic", 1)}, Handover: counter},
		consumed(amount("chocolate", 30), amount("milk", 200)),
	)
	s.When(wantsOut)
	s.Then(tooLate)
}

func TestACancelOfWhatFailedAlreadyChangesNothing(t *testing.T) {
	s := stocked(t)
	s.Given(paid(cups("classic", 1))) // out of stock
	s.When(wantsOut)
	s.Then()

	s = full(t)
	s.Given(paid(cups("lava", 1)))
	s.WhenRecorded("stock.reserved") // breaks the machine
	s.When(wantsOut)
	s.Then()
}

func TestWhatIsReservedIsMadeAndConsumed(t *testing.T) {
	s := full(t)
	s.Given(paid(cups("classic", 2), cups("dark", 1)))
	s.WhenRecorded("stock.reserved")
	s.Then(
		&makev1.DrinkMade{OrderId: flowtest.Order, Lines: []*shopv1.Line{cups("classic", 2), cups("dark", 1)}, Handover: counter},
		consumed(amount("chocolate", 60), amount("dark chocolate", 40), amount("milk", 580)),
	)
	s.ThenBarrier("brew", "done")
	if got := kept(s, "milk"); got != (Kept{OnHand: 10_000 - 580, Replenished: 10_000, Consumed: 580}) {
		t.Errorf("milk: %+v", got)
	}
	if got := flowtest.Doc[Drink](s, flow.States, "drink/"+flowtest.Order); got != (Drink{Phase: Made}) {
		t.Errorf("the drinks are %+v", got)
	}
}

func TestABrokenMachineFailsTheOrderAndReleasesTheStock(t *testing.T) {
	s := full(t)
	s.Given(paid(cups("lava", 2)))
	s.WhenRecorded("stock.reserved")
	s.Then(
		&makev1.MakeFailed{OrderId: flowtest.Order, Reason: "machine_broken", Detail: "lava is too hot for the machine"},
		released(amount("chili", 10)),
	)
	s.ThenBarrier("brew", "")
	if got := kept(s, "chili"); got != (Kept{OnHand: 100, Replenished: 100}) {
		t.Errorf("chili: %+v", got)
	}
}

func TestAReleaseBringsBackWhatHadRunOut(t *testing.T) {
	s := stocked(t, Replenish{"chili", 12}, Replenish{"milk", 1000}, Replenish{"chocolate", 1000})
	s.When(paid(cups("lava", 2), cups("classic", 1)))
	s.WhenRecorded("stock.reserved")
	s.Then(
		&makev1.MakeFailed{OrderId: flowtest.Order, Reason: "machine_broken", Detail: "lava is too hot for the machine"},
		released(amount("chili", 10), amount("chocolate", 30), amount("milk", 200)),
		&makev1.StockReplenished{Location: "main", Ingredient: "chili", Amount: 0, Available: 12, Cause: "release"},
	)
	if got := kept(s, "chili"); got != (Kept{OnHand: 12, Replenished: 12}) {
		t.Errorf("chili: %+v", got)
	}
}

func TestAMachineThatDoesNotAnswerIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // in a bubble with its own clock
		s := flowtest.New(t, Flow(Machine{BrewFor: time.Hour}))
		s.Given(classic)
		s.GivenDone("replenish", Replenish{"milk", 1000})
		s.GivenDone("replenish", Replenish{"chocolate", 1000})
		s.Given(paid(cups("classic", 1)))
		s.WhenRecorded("stock.reserved")
		s.ThenTrouble("deadline exceeded")
		if got := kept(s, "milk"); got.Reserved != 200 {
			t.Errorf("milk: %+v: it must be kept while the machine is asked", got)
		}
		s.Attempt(flow.Forward.Attempts)
		s.WhenRecorded("stock.reserved")
		s.Then(
			&makev1.MakeFailed{OrderId: flowtest.Order, Reason: "machine_broken", Detail: "the machine does not answer"},
			released(amount("chocolate", 30), amount("milk", 200)),
		)
	})
}

func TestDrinksThatAreNotHandedOverAreThrownAway(t *testing.T) {
	s := full(t)
	s.Given(paid(cups("classic", 1)))
	s.WhenRecorded("stock.reserved")
	s.When(nobodyHome)
	s.Then(&makev1.DrinkDiscarded{OrderId: flowtest.Order, Lines: []*shopv1.Line{cups("classic", 1)}, Reason: "nobody_home"})
	s.ThenBarrier("brew", "undone")
	if got := kept(s, "milk"); got != (Kept{OnHand: 9800, Replenished: 10_000, Consumed: 200}) {
		t.Errorf("milk: %+v: what is thrown away is gone", got)
	}
	s.When(&deliveryv1.DeliveryFailed{OrderId: flowtest.Order, Reason: "no_courier"})
	s.Then() // thrown away once
}

func TestWhatWasNeverMadeIsNotThrownAwayNorMadeAfterwards(t *testing.T) {
	s := full(t)
	s.When(nobodyHome)
	s.ThenSuppressed()
	s.ThenBarrier("brew", "suppressed")
}

func TestGoodsThatComeInAreOnHand(t *testing.T) {
	s := stocked(t)
	s.WhenDone("replenish", Replenish{"milk", 500})
	s.Then(&makev1.StockReplenished{Location: "main", Ingredient: "milk", Amount: 500, Available: 500, Cause: "staff"})
	s.GivenDone("replenish", Replenish{"chocolate", 30})
	s.Given(paid(cups("classic", 1)))
	s.WhenDone("replenish", Replenish{"milk", 50})
	s.Then(&makev1.StockReplenished{Location: "main", Ingredient: "milk", Amount: 50, Available: 350, Cause: "staff"}) // 200 are reserved
}

func TestGoodsThatComeInEndTheDepletion(t *testing.T) {
	s := stocked(t, Replenish{"milk", 200}, Replenish{"chocolate", 1000})
	s.Given(paid(cups("classic", 1))) // the last of the milk
	if !kept(s, "milk").Depleted {
		t.Fatal("the milk has not run out")
	}
	s.GivenDone("replenish", Replenish{"milk", 200})
	if kept(s, "milk").Depleted {
		t.Error("the milk came in and is still out")
	}
	const next = "01900000-0000-7000-8000-000000000002"
	s.In(next)
	again := paid(cups("classic", 1))
	again.OrderId = next
	s.When(again)
	want := reserved(again.Lines, amount("chocolate", 30), amount("milk", 200))
	want.OrderId = next
	s.Then(want, depleted("milk", 0)) // and it is said again
}
func TestARecipeStaysThoughTheRetirementArrivedFirst(t *testing.T) {
	s := flowtest.New(t, Flow(Machine{}))
	s.GivenDone("replenish", Replenish{"chili", 100})
	arrives(t, s, 2, &menuv1.ItemRetired{Sku: "lava", Recipe: lava.Recipe})
	arrives(t, s, 1, lava)
	lines := []*shopv1.Line{cups("lava", 1)}
	s.When(paid(lines...))
	s.Then(reserved(lines, amount("chili", 5)))
}
