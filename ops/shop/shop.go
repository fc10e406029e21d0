// Package shop is the five services' flows together: what the CLI, the topology and the tests look at.
package shop

import (
	"hotchoc/delivery"
	making "hotchoc/make"
	"hotchoc/menu"
	"hotchoc/order"
	"hotchoc/pay"
	"hotchoc/pkg/flow"
)

// Flows are the flows of all services, in the order of an order's way. They are for looking at: nothing outside is behind
// their Asks.
func Flows() []*flow.Flow {
	return []*flow.Flow{menu.Flow, order.Flow, pay.Flow(nil), making.Flow(making.Machine{}), delivery.Flow(nil)}
}

// Graph is the whole choreography.
func Graph() flow.Graph { return flow.NewGraph(Flows()...) }
