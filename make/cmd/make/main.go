// Command make runs the make service; its environment is described in docs/configuration.md.
package main

import (
	"os"

	making "hotchoc/make"
	"hotchoc/pkg/host"
)

func main() {
	os.Exit(host.Main(os.Environ(), (*making.Config).Validate, making.Run))
}
