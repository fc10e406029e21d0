package menu

import (
	"slices"

	"google.golang.org/protobuf/proto"

	"hotchoc/pkg/contract/makev1"
	"hotchoc/pkg/contract/menuv1"
	"hotchoc/pkg/contract/shopv1"
	"hotchoc/pkg/event"
	"hotchoc/pkg/flow"
)

type envelope = event.Envelope

// Item is the state of one item of the menu.
type Item struct {
	SKU      string   `json:"sku"`
	Name     string   `json:"name"`
	Price    int64    `json:"price"` // minor units
	Currency string   `json:"currency"`
	Recipe   []Amount `json:"recipe"`
	// Offered is the staff's own switch; Depleted are the ingredients that have run out.
	Offered  bool     `json:"offered"`
	Depleted []string `json:"depleted,omitempty"`
	Retired  bool     `json:"retired,omitempty"`
}

// Amount is an ingredient of a recipe, in grams or millilitres per cup.
type Amount struct {
	Ingredient string `json:"ingredient"`
	Amount     int64  `json:"amount"`
}

func (i *Item) exists() bool { return i.SKU != "" && !i.Retired }

func (i *Item) available() bool { return i.Offered && len(i.Depleted) == 0 }

// state is what both events of an item carry: all of it.
type state interface {
	GetSku() string
	GetName() string
	GetPrice() *shopv1.Money
	GetRecipe() []*shopv1.Ingredient
	GetOffered() bool
	GetDepleted() []string
}

func (i *Item) evolve(fact proto.Message) {
	switch e := fact.(type) {
	case state:
		*i = Item{SKU: e.GetSku(), Name: e.GetName(), Price: e.GetPrice().GetAmount(), Currency: e.GetPrice().GetCurrency(), Offered: e.GetOffered(), Depleted: e.GetDepleted()}
		for _, r := range e.GetRecipe() {
			i.Recipe = append(i.Recipe, Amount{r.Name, r.Amount})
		}
	case *menuv1.ItemRetired:
		i.Retired = true
	}
}

func (i *Item) added() *menuv1.ItemAdded {
	e := i.edited()
	return &menuv1.ItemAdded{Sku: e.Sku, Name: e.Name, Price: e.Price, Recipe: e.Recipe, Available: e.Available, Offered: e.Offered, Depleted: e.Depleted}
}

func (i *Item) edited() *menuv1.ItemEdited {
	e := &menuv1.ItemEdited{
		Sku: i.SKU, Name: i.Name, Price: &shopv1.Money{Amount: i.Price, Currency: i.Currency},
		Available: i.available(), Offered: i.Offered, Depleted: i.Depleted,
	}
	for _, a := range i.Recipe {
		e.Recipe = append(e.Recipe, &shopv1.Ingredient{Name: a.Ingredient, Amount: a.Amount})
	}
	return e
}

// Describe is the staff's word on an item, new or not.
type Describe struct {
	SKU      string
	Name     string
	Price    int64
	Currency string
	Recipe   []Amount
	Offered  bool
}

// Add puts an item on the menu; Edit changes it; Retire takes it off for good.
type (
	Add    struct{ Describe }
	Edit   struct{ Describe }
	Retire struct{ SKU string }
)

func (d Describe) described() Describe { return d }

// Recipe is what describing an item looks at: the item, and which of its ingredients have run out.
type Recipe struct {
	Item     *Item
	Depleted []string
}

func recipe[C interface{ described() Describe }](r flow.Reader, c C, _ envelope) *Recipe {
	d := c.described()
	recipe := &Recipe{Item: items.Of(r, d.SKU)}
	for _, a := range d.Recipe {
		if ingredients.Of(r, a.Ingredient).Depleted {
			recipe.Depleted = append(recipe.Depleted, a.Ingredient)
		}
	}
	return recipe
}

// item is the item as the staff describes it.
func (r *Recipe) item(d Describe) *Item {
	slices.Sort(r.Depleted)
	return &Item{SKU: d.SKU, Name: d.Name, Price: d.Price, Currency: d.Currency, Recipe: d.Recipe, Offered: d.Offered, Depleted: r.Depleted}
}

func add(r *Recipe, c Add) flow.Outcome {
	if r.Item.exists() {
		return flow.Refuse(flow.Conflict, "item-exists", "There is an item %q already. PUT /menu/%s changes it.", c.SKU, c.SKU)
	}
	return flow.Emit(r.item(c.Describe).added())
}

func edit(r *Recipe, c Edit) flow.Outcome {
	if !r.Item.exists() {
		return flow.Refuse(flow.NotFound, "unknown-item", "There is no item %q on the menu. POST /menu adds one.", c.SKU)
	}
	return flow.Emit(r.item(c.Describe).edited())
}

func retire(i *Item, c Retire) flow.Outcome {
	if !i.exists() {
		return flow.Refuse(flow.NotFound, "unknown-item", "There is no item %q on the menu.", c.SKU)
	}
	e := i.edited()
	return flow.Emit(&menuv1.ItemRetired{Sku: c.SKU, Name: e.Name, Price: e.Price, Recipe: e.Recipe})
}

// Ingredient is what the menu keeps of an ingredient: who needs it, and whether it has run out.
type Ingredient struct {
	SKUs     []string `json:"skus,omitempty"`
	Depleted bool     `json:"depleted,omitempty"`
	// StockVersion is the version of the stock's stream that Depleted is from: the newest counts, whatever comes first.
	StockVersion int64 `json:"stock_version,omitempty"`
}

func (i *Ingredient) fold(fact proto.Message, e envelope) {
	needs := func(sku string) {
		if at, found := slices.BinarySearch(i.SKUs, sku); !found {
			i.SKUs = slices.Insert(i.SKUs, at, sku)
		}
	}
	ran := func(out bool) {
		if e.Version > i.StockVersion {
			i.Depleted, i.StockVersion = out, e.Version
		}
	}
	switch f := fact.(type) {
	case *menuv1.ItemAdded:
		needs(f.Sku)
	case *menuv1.ItemEdited:
		needs(f.Sku)
	case *makev1.StockDepleted:
		ran(true)
	case *makev1.StockReplenished:
		ran(false)
	}
}

func byIngredient(fact proto.Message, _ envelope) []string {
	switch f := fact.(type) {
	case *makev1.StockDepleted:
		return []string{f.Ingredient}
	case *makev1.StockReplenished:
		return []string{f.Ingredient}
	case state:
		var names []string
		for _, r := range f.GetRecipe() {
			names = append(names, r.Name)
		}
		return names
	}
	return nil
}

// Shelf is what following the stock looks at: an ingredient, and the items that need it.
type Shelf struct {
	Name       string
	Ingredient *Ingredient
	Items      []*Item
}

func shelf(r flow.Reader, name string) *Shelf {
	s := &Shelf{Name: name, Ingredient: ingredients.Of(r, name)}
	for _, sku := range s.Ingredient.SKUs {
		s.Items = append(s.Items, items.Of(r, sku))
	}
	return s
}

func soldOut(s *Shelf, _ *makev1.StockDepleted) flow.Outcome { return s.follow() }

func back(s *Shelf, _ *makev1.StockReplenished) flow.Outcome { return s.follow() }

// follow brings the items in line with what is known of the ingredient now, which may be newer than the message.
func (s *Shelf) follow() (outcome flow.Outcome) {
	for _, item := range s.Items {
		needed := slices.ContainsFunc(item.Recipe, func(a Amount) bool { return a.Ingredient == s.Name })
		at, marked := slices.BinarySearch(item.Depleted, s.Name)
		if !item.exists() || !needed || marked == s.Ingredient.Depleted {
			continue
		}
		changed := *item
		if changed.Depleted = slices.Clone(item.Depleted); marked {
			changed.Depleted = slices.Delete(changed.Depleted, at, at+1)
		} else {
			changed.Depleted = slices.Insert(changed.Depleted, at, s.Name)
		}
		outcome = outcome.Also(changed.edited())
	}
	return outcome
}
