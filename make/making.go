package making

import (
	"google.golang.org/protobuf/proto"

	"hotchoc/pkg/contract/makev1"
	"hotchoc/pkg/contract/menuv1"
	"hotchoc/pkg/contract/orderv1"
	"hotchoc/pkg/contract/payv1"
	"hotchoc/pkg/event"
	"hotchoc/pkg/flow"
)

// Drink is the state of the drinks of one order.
type Drink struct {
	Phase  Phase  `json:"phase"`
	Reason string `json:"reason,omitempty"`
}

// Phase is how far the drinks of an order have come.
type Phase string

// The phases.
const (
	None      Phase = ""
	Made      Phase = "made"
	Failed    Phase = "failed"
	Discarded Phase = "discarded"
)

func (d *Drink) evolve(fact proto.Message) {
	switch e := fact.(type) {
	case *makev1.DrinkMade:
		d.Phase = Made
	case *makev1.MakeFailed:
		d.Phase, d.Reason = Failed, e.Reason
	case *makev1.DrinkDiscarded:
		d.Phase, d.Reason = Discarded, e.Reason
	}
}

// Kitchen is what reserving looks at.
type Kitchen struct {
	Drink   *Drink
	Stock   *Stock
	Recipes map[string]*Recipe
}

func kitchen(r flow.Reader, paid *payv1.PaymentCaptured, e event.Envelope) *Kitchen {
	k := &Kitchen{Drink: drinks.Of(r, e.Saga.String()), Stock: stocks.Of(r, location), Recipes: map[string]*Recipe{}}
	for _, line := range paid.Lines {
		k.Recipes[line.Sku] = recipes.Of(r, line.Sku)
	}
	return k
}

// reserve sets the ingredients of all lines aside, or refuses the order.
func reserve(k *Kitchen, paid *payv1.PaymentCaptured) flow.Outcome {
	if k.Drink.Phase != None {
		return flow.Nothing()
	}
	need, cup := amounts{}, amounts{}
	for _, line := range paid.Lines {
		recipe := k.Recipes[line.Sku]
		if len(recipe.Ingredients) == 0 {
			return flow.NotYet("the recipe of %s has not come yet", line.Sku)
		}
		for _, i := range recipe.Ingredients {
			need[i.Name] += i.Amount * int64(line.Quantity)
			cup[i.Name] = max(cup[i.Name], i.Amount)
		}
	}
	var outcome flow.Outcome
	taken := amounts{}
	if short, missing := k.Stock.short(need); missing {
		outcome = flow.Emit(&makev1.MakeFailed{OrderId: paid.OrderId, Reason: "out_of_stock", Detail: short})
	} else {
		taken = need
		outcome = flow.Emit(&makev1.StockReserved{
			Location: location, OrderId: paid.OrderId, Ingredients: need.list(), Lines: paid.Lines, Handover: paid.Handover,
		})
	}
	// What is not enough for one more cup has run out, and the menu should know.
	for _, name := range need.names() {
		i := k.Stock.Ingredients[name]
		if left := i.available() - taken[name]; left < cup[name] && !i.Depleted {
			outcome = outcome.Also(&makev1.StockDepleted{Location: location, Ingredient: name, Available: left})
		}
	}
	return outcome
}

// noRecipe gives up on an order with an item that nobody has told us how to make.
func noRecipe(k *Kitchen, paid *payv1.PaymentCaptured, _ any) flow.Outcome {
	if k.Drink.Phase != None {
		return flow.Nothing()
	}
	return flow.Emit(&makev1.MakeFailed{OrderId: paid.OrderId, Reason: "out_of_stock", Detail: "there is no recipe for what was ordered"})
}

// cancel judges whether a cancel comes in time: until the ingredients are reserved it wins, and the late payment will find
// the way barred; after that it is too late. There is one judge, so that cancel and completion cannot both win.
func cancel(d *Drink, wish *orderv1.OrderCancelRequested, won bool) flow.Outcome {
	switch {
	case d.Phase == Failed:
		return flow.Nothing() // the order is on its way back already
	case won:
		return flow.Emit(&makev1.MakeFailed{OrderId: wish.OrderId, Reason: "cancelled", Detail: "cancelled by the " + wish.By})
	}
	return flow.Emit(&makev1.MakeCancelRejected{OrderId: wish.OrderId, Detail: "too late: the drinks are being made"})
}

// Bench is what brewing looks at.
type Bench struct {
	Drink *Drink
	Stock *Stock
}

func bench(r flow.Reader, _ *makev1.StockReserved, e event.Envelope) *Bench {
	return &Bench{drinks.Of(r, e.Saga.String()), stocks.Of(r, location)}
}

// brew records what the machine did with what was reserved.
func brew(b *Bench, reserved *makev1.StockReserved, answer Brew) flow.Outcome {
	if b.Drink.Phase != None {
		return flow.Nothing()
	}
	if answer.Broken != "" {
		return release(b, reserved, answer.Broken)
	}
	return flow.Emit(
		&makev1.DrinkMade{OrderId: reserved.OrderId, Lines: reserved.Lines, Handover: reserved.Handover},
		&makev1.StockConsumed{Location: location, OrderId: reserved.OrderId, Ingredients: reserved.Ingredients},
	)
}

// stuck gives up on a machine that does not answer.
func stuck(b *Bench, reserved *makev1.StockReserved, _ any) flow.Outcome {
	if b.Drink.Phase != None {
		return flow.Nothing()
	}
	return release(b, reserved, "the machine does not answer")
}

// release gives the drinks up, and the ingredients back.
func release(b *Bench, reserved *makev1.StockReserved, why string) flow.Outcome {
	outcome := flow.Emit(
		&makev1.MakeFailed{OrderId: reserved.OrderId, Reason: "machine_broken", Detail: why},
		&makev1.StockReleased{Location: location, OrderId: reserved.OrderId, Ingredients: reserved.Ingredients},
	)
	for _, i := range reserved.Ingredients {
		if kept := b.Stock.Ingredients[i.Name]; kept.Depleted {
			// Nothing came in, but it is there again: those who took it from the menu should know.
			outcome = outcome.Also(&makev1.StockReplenished{Location: location, Ingredient: i.Name, Amount: 0, Available: kept.available() + i.Amount, Cause: "release"})
		}
	}
	return outcome
}

// discard throws the drinks away when they could not be handed over. The ingredients are gone.
func discard(_ *Drink, made *makev1.DrinkMade, because flow.Failure) flow.Outcome {
	return flow.Emit(&makev1.DrinkDiscarded{OrderId: made.OrderId, Lines: made.Lines, Reason: because.Reason})
}

// Recipe is this service's copy of how an item is made. It stays when the item is retired: orders may be on their way.
type Recipe struct {
	Ingredients []Ingredient `json:"ingredients"`
	Retired     bool         `json:"retired,omitempty"`
}

// Ingredient is an amount of something per cup.
type Ingredient struct {
	Name   string `json:"name"`
	Amount int64  `json:"amount"` // grams or millilitres
}

func (r *Recipe) copy(fact proto.Message, _ event.Envelope) {
	switch e := fact.(type) {
	case *menuv1.ItemAdded:
		*r = recipeOf(e.Recipe)
	case *menuv1.ItemEdited:
		*r = recipeOf(e.Recipe)
	case *menuv1.ItemRetired:
		*r = recipeOf(e.Recipe)
		r.Retired = true
	}
}
