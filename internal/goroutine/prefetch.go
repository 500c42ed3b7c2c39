//go:build linux

package goroutine

// Stack is about where the caller's stack ends: what it has in use lies above. It is
// for [PrefetchSwitch] alone, since a stack may move at any time.
func Stack() uintptr

// Prefetch asks the processor for the 128 bytes from where the pointer p points to. It
// reads nothing: p may be stale, or nil.
//
//go:noescape
func Prefetch(p any)

// PrefetchSwitch is Prefetch for what a switch to a goroutine touches: the runtime's
// record of it, which is what its [ID] is the address of, and the end of its [Stack].
func PrefetchSwitch(id, stack uintptr)
