//go:build linux

package ring

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"example.com/ringnet/internal/sys"
)

// A multishot receive waits for its socket's wake-ups, receives until the socket
// says that it is empty, and waits again. A reset does not count as something that
// is left in the socket, and no wake-up follows it: one that came together with the
// last bytes is found only if the kernel looks once more because there had been
// several wake-ups (io_poll_check_events). Two ways to forget that:
//
//   - not to look again at all, as before "io_uring/poll: fix multishot recv missing
//     EOF on wakeup race", March 2026. Concluded from the source, not seen.
//   - to count the wake-ups as dealt with, and then to stop for others after 32
//     receives (MULTISHOT_MAX_RETRY): what goes on later knows of one wake-up only.
//     Seen on Debian's 6.12.117, and not on 6.12.107, 6.1.192 and 6.18.
var behind = [...]int{1, 40} // receives in front of the reset, for one and the other

func probeRecvMultishotReset() error {
	for _, n := range behind {
		if err := probeResetBehind(n, false); err != nil {
			return err
		}
	}
	return nil
}

// A receive that finds the socket ready when it begins to wait goes on as if it had
// been woken once (__io_arm_poll_handler). When the reset is there already, behind the
// bytes, no second wake-up makes the kernel look again. So it is with POLL_FIRST, where
// the first look was given up after 32 receives, and where bytes and reset come between
// a first look that finds nothing and the wait. The first is seen on Linux 6.18.44, the
// others are concluded from the source.
func probeRecvMultishotLate() error { return probeResetBehind(1, true) }

// probeResetBehind has a peer send so many buffers full of bytes and reset the
// connection, while a multishot receive is armed and its ring does not look, or (late)
// before one is armed that waits first. All has happened when the ring looks, so that
// what it does not find in a few looks it will never find: no answer depends on time.
func probeResetBehind(bufs int, late bool) error {
	const bufBytes, places, looks = 16, 64, 8
	// Without DEFER_TASKRUN the ring would look by itself. It belongs to a thread.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	u, err := sys.Setup(8, sys.Params{Flags: sys.IORING_SETUP_CLAMP | sys.IORING_SETUP_CQSIZE |
		sys.IORING_SETUP_SINGLE_ISSUER | sys.IORING_SETUP_DEFER_TASKRUN, CQEntries: 2 * places})
	if err != nil {
		if unknownToKernel(err) {
			return err
		}
		return setupError(err)
	}
	p := probeRing{u}
	defer p.Close()
	r, err := sys.NewBufRing(places)
	if err != nil {
		return err
	}
	defer r.Close()
	mem, err := sys.Map(sys.PageBytes)
	if err != nil {
		return err
	}
	defer sys.Unmap(mem)
	for i := range places {
		r.Add(mem[i*bufBytes:(i+1)*bufBytes], uint16(i))
	}
	r.Publish()
	if err := p.RegisterBufRing(0, r); err != nil {
		return err
	}
	client, server, err := tcpPair()
	if err != nil {
		return fmt.Errorf("connect over the loopback device: %w", err)
	}
	defer unix.Close(server)
	arm := func() error {
		e := p.entry()
		e.PrepareRecvMultishot(server, 0)
		if late {
			e.PollFirst()
		}
		p.Publish()
		if _, errno := p.Poll(1); errno != 0 {
			return errno
		}
		return nil
	}
	if !late {
		if err := arm(); err != nil {
			_ = unix.Close(client)
			return err
		}
	}
	if err := sendAndReset(client, server, make([]byte, bufs*bufBytes)); err != nil {
		return err
	}
	if late {
		if err := arm(); err != nil {
			return err
		}
	}
	for range bufs + looks {
		if _, errno := p.Poll(0); errno != 0 && errno != unix.EINTR {
			return errno
		}
		for ; p.Ready() > 0; p.Advance(1) {
			if c := Completion(*p.Completion(0)); !c.More() {
				return nil // it ends, with whatever errno
			}
		}
	}
	when := ""
	if late {
		when = " that was there when it was armed"
	}
	return fmt.Errorf("%w: it does not tell of a reset%s behind %d receives", ErrNotSupported, when, bufs)
}

// sendAndReset does that, and waits until the other end has all of it. It owns from.
func sendAndReset(from, to int, b []byte) error {
	n, errno := sys.Send(from, b, 0)
	err := sys.SetLinger(from, 0)
	_ = unix.Close(from)
	switch {
	case errno != 0:
		return errno
	case n != len(b):
		return fmt.Errorf("the socket took %d of %d bytes", n, len(b))
	case err != nil:
		return err
	}
	return pollFor(to, unix.POLLRDHUP)
}

// tcpPair is a connection over the loopback device.
func tcpPair() (client, server int, err error) {
	listener, err := sys.ListenTCP(netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 0), 1, false, false)
	if err != nil {
		return -1, -1, err
	}
	defer unix.Close(listener)
	addr, err := sys.LocalAddr(listener)
	if err != nil {
		return -1, -1, err
	}
	client, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, -1, err
	}
	err = unix.Connect(client, &unix.SockaddrInet4{Port: int(addr.Port()), Addr: addr.Addr().As4()})
	if errors.Is(err, unix.EINPROGRESS) {
		err = nil
	}
	if err == nil {
		err = pollFor(listener, unix.POLLIN)
	}
	if err == nil {
		server, _, err = unix.Accept4(listener, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
	}
	if err != nil {
		_ = unix.Close(client)
		return -1, -1, err
	}
	return client, server, nil
}

// pollFor waits for an event that is a matter of microseconds.
func pollFor(fd int, events int16) error {
	fds := []unix.PollFd{{Fd: int32(fd), Events: events}}
	for deadline := time.Now().Add(500 * time.Millisecond); time.Now().Before(deadline); {
		n, err := unix.Poll(fds, 100)
		if n > 0 {
			return nil
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
	}
	return errors.New("nothing came within half a second")
}
