// Package menu keeps what the shop offers.
//
// Read flow.go first: it is the service's whole part in the choreography. Then menu.go (what is decided), view.go (what
// people see), http.go and service.go.
package menu

import (
	"google.golang.org/protobuf/proto"

	"hotchoc/pkg/contract/makev1"
	"hotchoc/pkg/contract/menuv1"
	"hotchoc/pkg/flow"
)

var (
	items       = flow.NewStream("item", (*Item).evolve)
	page        = flow.NewView("menu_page", []proto.Message{&menuv1.ItemAdded{}, &menuv1.ItemEdited{}, &menuv1.ItemRetired{}}, (*Entry).fold).By(bySKU)
	ingredients = flow.NewView("ingredient", []proto.Message{&menuv1.ItemAdded{}, &menuv1.ItemEdited{}, &makev1.StockDepleted{}, &makev1.StockReplenished{}}, (*Ingredient).fold).By(byIngredient)
)

// Flow is the service's part in the choreography.
var Flow = flow.New("menu",
	items, page, ingredients,

	flow.Command("add", flow.Join(recipe[Add]), add).
		Emits(&menuv1.ItemAdded{}).
		NotCompensated("the staff's decision"),
	flow.Command("edit", flow.Join(recipe[Edit]), edit).
		Emits(&menuv1.ItemEdited{}).
		NotCompensated("the staff's decision"),
	flow.Command("retire", flow.By(items, func(c Retire) string { return c.SKU }), retire).
		Emits(&menuv1.ItemRetired{}).
		NotCompensated("the staff's decision"),

	flow.On("sell-out", flow.Join(func(r flow.Reader, e *makev1.StockDepleted, _ envelope) *Shelf { return shelf(r, e.Ingredient) }), soldOut).
		Emits(&menuv1.ItemEdited{}).
		NotCompensated("follows the stock, both ways"),
	flow.On("restock", flow.Join(func(r flow.Reader, e *makev1.StockReplenished, _ envelope) *Shelf { return shelf(r, e.Ingredient) }), back).
		Emits(&menuv1.ItemEdited{}).
		NotCompensated("follows the stock, both ways"),
)
