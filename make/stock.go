package making

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"hotchoc/pkg/contract/makev1"
	"hotchoc/pkg/contract/shopv1"
	"hotchoc/pkg/flow"
)

// location is the one place where ingredients are kept.
const location = "main"

// Stock is the state of the ingredients at one location: the fold of their movements.
type Stock struct {
	Ingredients map[string]Kept `json:"ingredients"`
}

// Kept is one ingredient, in grams or millilitres. On hand is what came in less what was consumed.
type Kept struct {
	OnHand      int64 `json:"on_hand"`
	Reserved    int64 `json:"reserved"`
	Replenished int64 `json:"replenished"`
	Consumed    int64 `json:"consumed"`
	// Depleted says that the menu was told it ran out, and not yet that it is back.
	Depleted bool `json:"depleted,omitempty"`
}

func (k Kept) available() int64 { return k.OnHand - k.Reserved }

func (s *Stock) evolve(fact proto.Message) {
	if s.Ingredients == nil {
		s.Ingredients = map[string]Kept{}
	}
	change := func(name string, f func(*Kept)) {
		k := s.Ingredients[name]
		f(&k)
		s.Ingredients[name] = k
	}
	switch e := fact.(type) {
	case *makev1.StockReplenished:
		change(e.Ingredient, func(k *Kept) { k.OnHand += e.Amount; k.Replenished += e.Amount; k.Depleted = false })
	case *makev1.StockDepleted:
		change(e.Ingredient, func(k *Kept) { k.Depleted = true })
	case *makev1.StockReserved:
		for _, i := range e.Ingredients {
			change(i.Name, func(k *Kept) { k.Reserved += i.Amount })
		}
	case *makev1.StockReleased:
		for _, i := range e.Ingredients {
			change(i.Name, func(k *Kept) { k.Reserved -= i.Amount })
		}
	case *makev1.StockConsumed:
		for _, i := range e.Ingredients {
			change(i.Name, func(k *Kept) { k.Reserved -= i.Amount; k.OnHand -= i.Amount; k.Consumed += i.Amount })
		}
	}
}

// short tells what is missing for all that is needed.
func (s *Stock) short(need amounts) (string, bool) {
	var missing []string
	for _, name := range need.names() {
		if left := s.Ingredients[name].available(); left < need[name] {
			missing = append(missing, fmt.Sprintf("%s: %d needed, %d left", name, need[name], left))
		}
	}
	return strings.Join(missing, "; "), len(missing) > 0
}

// Replenish is a delivery of goods.
type Replenish struct {
	Ingredient string
	Amount     int64
}

// replenish takes goods in.
func replenish(s *Stock, goods Replenish) flow.Outcome {
	return flow.Emit(&makev1.StockReplenished{
		Location: location, Ingredient: goods.Ingredient, Amount: goods.Amount,
		Available: s.Ingredients[goods.Ingredient].available() + goods.Amount,
		Cause:     "staff",
	})
}

// amounts are grams or millilitres by ingredient.
type amounts map[string]int64

func (a amounts) names() []string { return slices.Sorted(maps.Keys(a)) }

func (a amounts) list() []*shopv1.Ingredient {
	var list []*shopv1.Ingredient
	for _, name := range a.names() {
		list = append(list, &shopv1.Ingredient{Name: name, Amount: a[name]})
	}
	return list
}

func recipeOf(ingredients []*shopv1.Ingredient) Recipe {
	var r Recipe
	for _, i := range ingredients {
		r.Ingredients = append(r.Ingredients, Ingredient{i.Name, i.Amount})
	}
	return r
}
