//go:build linux

// Package ring is one io_uring queue pair: entries in, completions out.
//
// It knows operations, queues and registration, and nothing of connections or
// callbacks; package net is built on it, and it can be used alone. The order of
// a ring's life is
//
//	r, err := ring.New(ring.Config{})  // anywhere
//	r.Enable()                         // on the thread that will use it
//	e := r.Entry()                     // an empty entry of the submission queue
//	e.PrepareNop(); e.SetUserData(7)
//	r.Wait(1, -1)                      // submit, and block for one completion
//	n := r.Reap(completions)           // copy what has completed
//	r.Close()
//
// A Ring belongs to the goroutine that enabled it, and that goroutine to its
// thread (runtime.LockOSThread): the kernel refuses other threads with EEXIST.
// If the thread ends, the ring is dead. Only Wake is safe for concurrent use.
//
// Memory named in an entry must stay in place and reachable until the
// operation's last completion: memory from [Map], or heap memory held by a
// runtime.Pinner. The ring keeps no reference to it. The last completion is the
// one without [Completion.More]; after a zero-copy send it is the notification.
//
// The floor is [KernelFloor]. What is younger is probed by doing the smallest
// real operation ([Have]), never by comparing versions.
package ring
