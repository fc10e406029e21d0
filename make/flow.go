// Package making makes the drinks, and keeps the stock they are made of. (The folder is make; a package of that name
// would hide the builtin from whoever imports it.)
//
// Read flow.go first: it is the service's whole part in the choreography. Then making.go (what is decided), stock.go (how
// ingredients move), machine.go (the device it asks), http.go and service.go.
package making

import (
	"context"

	"google.golang.org/protobuf/proto"

	"hotchoc/pkg/contract/deliveryv1"
	"hotchoc/pkg/contract/makev1"
	"hotchoc/pkg/contract/menuv1"
	"hotchoc/pkg/flow"
)

var (
	drinks  = flow.NewStream("drink", (*Drink).evolve)
	stocks  = flow.NewStream("stock", (*Stock).evolve)
	recipes = flow.NewCopy("recipe_copy", []proto.Message{&menuv1.ItemAdded{}, &menuv1.ItemEdited{}, &menuv1.ItemRetired{}}, (*Recipe).copy)
)

// Flow is the service's part in the choreography, with the machine it asks.
func Flow(machine Machine) *flow.Flow {
	ask := func(ctx context.Context, c flow.Call, reserved *makev1.StockReserved) (Brew, error) {
		return machine.Brew(ctx, c.Key, reserved.Lines)
	}
	return flow.New("make",
		drinks, stocks, recipes,

		flow.On("reserve", flow.Join(kitchen), reserve).
			Emits(&makev1.StockReserved{}, &makev1.StockDepleted{}, &makev1.MakeFailed{}).
			GiveUp(nil, noRecipe).
			NotCompensated("brewing settles it: what is reserved is consumed or released there"),
		flow.Judge("cancel", "reserve", drinks, cancel).
			Emits(&makev1.MakeFailed{}, &makev1.MakeCancelRejected{}).
			NotCompensated("a judgement"),

		flow.Ask("brew", flow.Join(bench), ask, brew).
			Emits(&makev1.DrinkMade{}, &makev1.StockConsumed{}, &makev1.MakeFailed{}, &makev1.StockReleased{}, &makev1.StockReplenished{}).
			Settles(&makev1.StockReserved{}).
			GiveUp(nil, stuck),
		flow.Compensate("discard", "brew", drinks, discard).
			When(&deliveryv1.DeliveryFailed{}).
			Emits(&makev1.DrinkDiscarded{}),

		flow.Command("replenish", flow.By(stocks, func(Replenish) string { return location }), replenish).
			Emits(&makev1.StockReplenished{}).
			NotCompensated("goods that came in"),
	)
}
