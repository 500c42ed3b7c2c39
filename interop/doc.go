//go:build linux

// Package interop has tests in which other people's programs use connections that
// ringnet's loops have handed over to the standard library: net/http, HTTP/2, gRPC,
// WebSocket, and a browser; and an example of fasthttp on fibers. It is a module of its
// own, so that what they need is no dependency of the library.
package interop
