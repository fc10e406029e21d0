//go:build !crashpoints

// Package crash has the points at which tests let a process die: between each two steps that must survive a crash. They
// are compiled in with the build tag crashpoints only; without it On is false and the compiler leaves nothing of them.
package crash

// On tells whether the points are compiled in.
const On = false

// At does nothing.
func At(string, ...string) {}
