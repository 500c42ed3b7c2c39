//go:build linux

// Package conformance holds ringnet's Streams to golang.org/x/net/nettest, the tests
// that any net.Conn has to pass. It is here, and not in package net, so that who builds
// the library needs nothing of golang.org/x/net.
package conformance
