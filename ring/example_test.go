//go:build linux

package ring_test

import (
	"fmt"
	"log"
	"net/netip"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"example.com/ringnet/ring"
)

// A ring belongs to one thread, and the goroutine that uses it stays there.
func Example() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	r, err := ring.New(ring.Config{})
	if err != nil {
		log.Fatal(err) // says what forbids io_uring and what would allow it
	}
	defer r.Close()
	if err := r.Enable(); err != nil {
		log.Fatal(err)
	}

	e := r.Entry()
	e.PrepareNop()
	e.SetUserData(42)
	if err := r.Wait(1, -1); err != nil { // submits, and waits for one completion
		log.Fatal(err)
	}

	var completions [8]ring.Completion
	for _, c := range completions[:r.Reap(completions[:])] {
		fmt.Println("operation", c.UserData, "completed with", c.Res)
	}
	// Output: operation 42 completed with 0
}

// The file is read into memory that neither the garbage collector nor a growing
// stack moves while the kernel writes to it.
func ExampleEntry_PrepareRead() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	f, err := os.CreateTemp("", "")
	if err != nil {
		log.Fatal(err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if _, err := f.WriteString("hello from a file"); err != nil {
		log.Fatal(err)
	}

	r, err := ring.New(ring.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer r.Close()
	if err := r.Enable(); err != nil {
		log.Fatal(err)
	}
	mem, err := ring.Map(4096)
	if err != nil {
		log.Fatal(err)
	}
	defer ring.Unmap(mem)

	r.Entry().PrepareRead(int(f.Fd()), mem, 6)
	var c [1]ring.Completion
	for r.Reap(c[:]) == 0 { // a signal can end a wait before its time
		if err := r.Wait(1, -1); err != nil {
			log.Fatal(err)
		}
	}
	if err := c[0].Err(); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%d bytes: %s\n", c[0].Res, mem[:c[0].Res])
	// Output: 11 bytes: from a file
}

// An echo server in one loop: one entry accepts all connections, one entry per
// connection receives all its data, into buffers that the kernel takes from a
// ring of buffers when data is there.
func Example_echo() {
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

	// Four buffers, all with the kernel, as group 0.
	const size, count = 4096, 4
	mem, err := ring.Map(count * size)
	if err != nil {
		log.Fatal(err)
	}
	defer ring.Unmap(mem)
	buffer := func(id uint16) []byte { return mem[int(id)*size : (int(id)+1)*size] }
	buffers, err := ring.NewBufRing(count)
	if err != nil {
		log.Fatal(err)
	}
	defer buffers.Close()
	for id := range uint16(count) {
		buffers.Add(buffer(id), id)
	}
	buffers.Publish()
	if err := r.RegisterBufRing(0, buffers); err != nil {
		log.Fatal(err)
	}
	defer r.UnregisterBufRing(0)

	listener, err := r.ListenTCP(netip.MustParseAddrPort("127.0.0.1:0"), 128, false, false)
	if err != nil {
		log.Fatal(err)
	}
	defer r.CloseFd(listener)
	addr, err := r.LocalAddr(listener)
	if err != nil {
		log.Fatal(err)
	}
	replied := make(chan string)
	go func() { replied <- talk(addr, "ping", "pong") }()

	// User data says what completed: the kind of operation, and its descriptor
	// or buffer. With more than a toy server, a table and a generation.
	const accept, receive, send = 1, 2, 3
	userData := func(kind, value int) uint64 { return uint64(kind)<<32 | uint64(value) }

	e := r.Entry()
	e.PrepareAcceptMultishot(listener)
	e.SetUserData(userData(accept, listener))
	completions := make([]ring.Completion, 64)
	for open := true; open; {
		if err := r.Wait(1, -1); err != nil {
			log.Fatal(err)
		}
		for _, c := range completions[:r.Reap(completions)] {
			kind, value := int(c.UserData>>32), int(uint32(c.UserData))
			if err := c.Err(); err != nil {
				log.Fatalf("operation %d: %v", kind, err)
			}
			switch kind {
			case accept:
				e := r.Entry()
				e.PrepareRecvMultishot(int(c.Res), 0)
				e.SetUserData(userData(receive, int(c.Res)))
			case receive:
				id, ok := c.Buffer()
				if !ok { // the end of the stream
					r.CloseFd(value)
					open = false
					break
				}
				// The buffer is ours until the send has completed. A client that
				// sends before it has its answer would need a queue here: at most
				// one send may be in flight on a stream.
				e := r.Entry()
				e.PrepareSend(value, buffer(id)[:c.Res], unix.MSG_WAITALL)
				e.SetUserData(userData(send, int(id)))
			case send:
				buffers.Add(buffer(uint16(value)), uint16(value))
				buffers.Publish() // the kernel's again
			}
		}
	}
	fmt.Println("the client got", <-replied)
	// Output: the client got ping pong
}

// talk sends words to a server one by one and returns the answers.
func talk(addr netip.AddrPort, words ...string) string {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err.Error()
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: int(addr.Port()), Addr: addr.Addr().As4()}); err != nil {
		return err.Error()
	}
	answers, b := "", make([]byte, 64)
	for i, word := range words {
		if _, err := unix.Write(fd, []byte(word)); err != nil {
			return err.Error()
		}
		n, err := unix.Read(fd, b)
		if err != nil {
			return err.Error()
		}
		if i > 0 {
			answers += " "
		}
		answers += string(b[:n])
	}
	return answers
}

// A probe does the smallest real operation; comparing kernel versions would not
// see what distributions bring back or switch off.
func ExampleHave() {
	if err := ring.Have(ring.RecvMultishot); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(ring.RecvMultishot, "can be used")
	// Output: recv-multishot can be used
}

// Another goroutine ends a ring's wait.
func ExampleWaker() {
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
	w, err := ring.NewWaker(r, 1)
	if err != nil {
		log.Fatal(err)
	}
	defer w.Close()
	w.Arm()

	go w.Wake()
	for r.Ready() == 0 {
		if err := r.Wait(1, -1); err != nil {
			log.Fatal(err)
		}
	}
	fmt.Println("awake")
	// Output: awake
}
