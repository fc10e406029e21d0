// Command pay runs the pay service; its environment is described in docs/configuration.md.
package main

import (
	"os"

	"hotchoc/pay"
	"hotchoc/pkg/host"
)

func main() {
	os.Exit(host.Main(os.Environ(), (*pay.Config).Validate, pay.Run))
}
