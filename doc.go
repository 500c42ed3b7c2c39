// Package ringnet is the root of an async network runtime for Linux on io_uring.
// It holds no code; import what you need of
//
//   - example.com/ringnet/net: servers on event loops. Start here.
//   - example.com/ringnet/bufring: pools of buffers that the kernel fills, and
//     leases that say who holds each. Usable alone.
//   - example.com/ringnet/ring: one io_uring queue pair, entries in, completions
//     out. Usable alone.
//
// They need Linux on amd64 or arm64; README.md names the oldest kernel. This
// package alone builds on every system, so that tools can load the module
// anywhere. A program that imports one of the others does not build elsewhere:
// the compiler then says ringnet_needs_linux_on_amd64_or_arm64.
package ringnet
