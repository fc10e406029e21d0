// Command order runs the order service; its environment is described in docs/configuration.md.
package main

import (
	"os"

	"hotchoc/order"
	"hotchoc/pkg/host"
)

func main() {
	os.Exit(host.Main(os.Environ(), (*order.Config).Validate, order.Run))
}
