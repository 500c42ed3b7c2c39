//go:build !linux || !(amd64 || arm64)

package sys

// ringnet runs on Linux only: io_uring and epoll are Linux interfaces. There is
// no stub for other systems, because a server that builds and then cannot serve
// is worse than one that does not build. The name below is undefined on purpose,
// so that the compiler's message says it.
var _ = ringnet_needs_linux_on_amd64_or_arm64
