package sim_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"hotchoc/pkg/contract/orderv1"
	"hotchoc/pkg/flow"
	"hotchoc/pkg/flow/sim"
)

// Tickets is a flow of one step: whoever orders gets a ticket, once.
var tickets = flow.NewStream("order", func(issued *int, _ proto.Message) { *issued++ })

var booth = flow.New("order", tickets,
	flow.Command("buy", tickets, func(issued *int, id string) flow.Outcome {
		return flow.Emit(&orderv1.OrderPlaced{OrderId: id})
	}).Emits(&orderv1.OrderPlaced{}))

func Example() {
	world, err := sim.New(func() sim.Setup {
		return sim.Setup{
			Services: []sim.Service{{Flow: func(*sim.Outside) *flow.Flow { return booth }, Instances: 2}},
			Wishes: func(*rand.Rand) []sim.Wish {
				return []sim.Wish{{Text: "a ticket", Do: func(w *sim.World) {
					w.Send(sim.Customer{Service: "order", Step: "buy", Command: func(saga uuid.UUID, _ time.Time) any { return saga.String() }})
				}}}
			},
			Rest: func(w *sim.World) {
				if sold := len(w.Log("order")); sold > 1 {
					w.Violate("%d tickets for one customer", sold)
				}
			},
		}
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	found := world.Random(context.Background(), 1, 500)
	fmt.Println(found.Runs, "runs, found:", found.Failure)
	// Output: 500 runs, found: <nil>
}
