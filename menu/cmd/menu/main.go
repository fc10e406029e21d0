// Command menu runs the menu service; its environment is described in docs/configuration.md.
package main

import (
	"os"

	"hotchoc/menu"
	"hotchoc/pkg/host"
)

func main() {
	os.Exit(host.Main(os.Environ(), (*menu.Config).Validate, menu.Run))
}
