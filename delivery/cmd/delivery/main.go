// Command delivery runs the delivery service; its environment is described in docs/configuration.md.
package main

import (
	"os"

	"hotchoc/delivery"
	"hotchoc/pkg/host"
)

func main() {
	os.Exit(host.Main(os.Environ(), (*delivery.Config).Validate, delivery.Run))
}
