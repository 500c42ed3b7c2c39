//go:build linux

package bufring_test

import (
	"errors"
	"fmt"
	"log"
	"runtime"

	"golang.org/x/sys/unix"

	"example.com/ringnet/bufring"
	"example.com/ringnet/ring"
)

// A pool hands out buffers as leases. A lease can be given to another goroutine;
// whoever has it releases it.
func ExamplePool() {
	pool, err := bufring.NewPool(bufring.PoolOptions{BufBytes: 16, Count: 2})
	if err != nil {
		log.Fatal(err)
	}
	a, _ := pool.Lease()
	b, _ := pool.Lease()
	if _, err := pool.Lease(); errors.Is(err, bufring.ErrExhausted) {
		fmt.Println(err)
	}

	n := copy(a.Bytes(), "lent, not given")
	a = a.Slice(0, n)
	done := make(chan struct{})
	go func() {
		fmt.Printf("%s\n", a.Bytes())
		a.Release()
		close(done)
	}()
	<-done

	c, _ := pool.Lease() // the one that came back
	pool.Put(b)          // faster than Release, on the pool's own goroutine
	pool.Put(c)
	if err := pool.Close(); err != nil {
		log.Fatal(err)
	}
	// Output:
	// bufring: every buffer is in use
	// lent, not given
}

// The kernel takes buffers of a group by itself, when data arrives: one entry
// receives a whole stream, and a connection that waits holds no memory.
func ExampleGroup() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	r, err := ring.New(ring.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer r.Close()
	if err := r.Enable(); err != nil {
		log.Fatal(err)
	}
	group, err := bufring.NewGroup(r, bufring.GroupOptions{BufBytes: 4096, Count: 8})
	if err != nil {
		log.Fatal(err)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		log.Fatal(err)
	}
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])

	go unix.Write(pair[1], []byte("received in place"))

	r.Entry().PrepareRecvMultishot(pair[0], group.ID())
	completions := make([]ring.Completion, 16)
	for more := true; more; {
		group.Refill() // hands back what was released, before entering the kernel
		if err := r.Wait(1, -1); err != nil {
			log.Fatal(err)
		}
		for _, c := range completions[:r.Reap(completions)] {
			if id, ok := c.Buffer(); ok {
				lease := group.Take(id, int(c.Res))
				fmt.Printf("%s\n", lease.Bytes())
				group.Put(lease)
				unix.Shutdown(pair[1], unix.SHUT_WR) // enough: end the stream
			}
			more = c.More() // false at the end of the stream, and when the group is empty
		}
	}
	if err := group.Close(); err != nil {
		log.Fatal(err)
	}
	// Output: received in place
}
