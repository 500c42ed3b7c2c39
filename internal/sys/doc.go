// Package sys is the border between ringnet and the Linux kernel: the io_uring
// ABI, the raw system calls and the memory that the kernel reads and writes.
//
// It is the only package that imports unsafe or makes raw system calls; a test
// at the root of the module holds that. What it gives to the packages above are
// typed views ([Entry], [Completion], [Queues], [BufRing], [Message]) and plain
// functions that take []byte and Go types. Names of constants are the kernel's,
// so that they can be searched in linux/io_uring.h and the man pages.
//
// Only 64-bit little-endian Linux is supported (amd64, arm64). Memory orders are
// argued for arm64, the weaker of the two.
package sys
