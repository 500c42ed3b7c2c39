//go:build linux

package bufring

import "runtime"

// wrapped pins the memory of a lease made by Wrap. It is reachable through the
// pool's notify function for as long as the lease is.
type wrapped struct {
	p   *Pool
	pin runtime.Pinner
}

func (w *wrapped) unpin() { w.pin.Unpin() }
