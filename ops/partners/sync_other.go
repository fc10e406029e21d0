//go:build !linux

package partners

import "os"

func syncData(f *os.File) error { return f.Sync() }
