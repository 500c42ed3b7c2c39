//go:build linux

package net

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	stdnet "net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"example.com/ringnet/bufring"
)

// A post is a message that says whose it is and how many came before it, so that
// one that is missing, doubled, mixed up or cut shows.
const postHead = 12

func newPost(poster, seq uint32, size int) []byte {
	b := make([]byte, postHead, postHead+size)
	binary.LittleEndian.PutUint32(b, poster)
	binary.LittleEndian.PutUint32(b[4:], seq)
	binary.LittleEndian.PutUint32(b[8:], uint32(size))
	return append(b, payload(uint64(poster)<<32|uint64(seq), size)...)
}

// readPost reads a post and holds its bytes to what they must be.
func readPost(r io.Reader) (poster, seq uint32, err error) {
	var head [postHead]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, 0, err
	}
	poster, seq = binary.LittleEndian.Uint32(head[:]), binary.LittleEndian.Uint32(head[4:])
	size := binary.LittleEndian.Uint32(head[8:])
	if poster > 1000 || size > 1<<20 {
		return 0, 0, fmt.Errorf("this is no post: % x", head)
	}
	b := make([]byte, size)
	if _, err := io.ReadFull(r, b); err != nil {
		return 0, 0, err
	}
	return poster, seq, differ(b, payload(uint64(poster)<<32|uint64(seq), int(size)))
}

// refs hands the Ref of each connection out as it opens.
func refs(n int, s script) (script, chan Ref) {
	ch := make(chan Ref, n)
	then := s.open
	s.open = func(c *Conn) {
		if then != nil {
			then(c)
		}
		ch <- c.Ref()
	}
	return s, ch
}

// try posts until the mailbox or the output has room.
func try(post func() error) error {
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		err := post()
		if !errors.Is(err, ErrBusy) && !errors.Is(err, ErrBacklog) || time.Now().After(end) {
			return err
		}
	}
}

func TestRefsSendInOrderFromManyGoroutines(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		const conns, posters = 5, 4
		each, most := few(60), 9000
		if v.slow {
			each, most = few(20), 1000
		}
		s, opened := refs(conns, script{})
		v.MaxPosted, v.MaxBuffered = 50, 1<<30
		srv := serve(t, v.Options, s)
		clients, to := make([]stdnet.Conn, conns), make([]Ref, conns)
		for i := range clients {
			clients[i] = srv.dial()
			to[i] = await(t, opened, "a connection to open")
		}
		read := make(chan error, conns)
		for _, c := range clients {
			go func() {
				var next [posters]uint32
				r := bufio.NewReader(c)
				for range posters * each {
					poster, seq, err := readPost(r)
					if err == nil && (int(poster) >= posters || seq != next[poster]) {
						err = fmt.Errorf("post %d of poster %d comes, %d were read", seq, poster, next)
					}
					if err != nil {
						read <- err
						return
					}
					next[poster]++
				}
				read <- nil
			}()
		}
		err := crowd(posters, func(poster int) error {
			for seq := range each {
				size := (seq*997 + poster*13) % most
				post := newPost(uint32(poster), uint32(seq), size)
				m := NewMessage(post)
				for i, r := range to {
					var err error
					switch (seq + i + poster) % 4 {
					case 0:
						err = try(func() error { return r.Send(post) })
					case 1:
						err = try(func() error { return r.SendMessage(m) })
					case 2:
						err = try(func() error { return r.SendLease(bufring.Wrap(slices.Clone(post))) })
					case 3:
						err = try(func() error {
							return r.Post(func(c *Conn) {
								if _, err := c.Write(m.b); err != nil {
									t.Errorf("write: %v", err)
								}
							})
						})
					}
					if err != nil {
						return err
					}
				}
				clear(post) // copies were made of it
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		for range clients {
			if err := await(t, read, "the posts to arrive"); err != nil {
				t.Error(err)
			}
		}
		if st := srv.Stats(); st.PostsDropped != 0 || st.Refused != 0 || st.Posts < uint64(conns*posters*each) {
			t.Errorf("%d posts, of which %d were dropped and %d refused: want %d, 0, 0", st.Posts, st.PostsDropped, st.Refused, conns*posters*each)
		}
	})
}

// wantClosed wants every way to use a Ref to answer ErrClosed.
func wantClosed(t *testing.T, what string, r Ref) {
	t.Helper()
	never := func(*Conn) { t.Errorf("%s: a function that was refused is called", what) }
	for name, err := range map[string]error{
		"Send": r.Send([]byte("x")), "SendMessage": r.SendMessage(NewMessage([]byte("x"))), "SendLease": r.SendLease(bufring.Wrap([]byte("x"))),
		"Post": r.Post(never), "PostOr": r.PostOr(never), "Wake": r.Wake(), "Close": r.Close(), "Abort": r.Abort(io.ErrUnexpectedEOF),
	} {
		if !errors.Is(err, stdnet.ErrClosed) {
			t.Errorf("%s: %s: %v, want net.ErrClosed", what, name, err)
		}
	}
}

func TestRefsOfConnectionsThatHaveEnded(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		wantClosed(t, "zero Ref", Ref{})
		var first Ref
		var conn *Conn
		s, opened := refs(10, script{close: func(c *Conn, err error) {
			if c.Ref() != first && first != (Ref{}) {
				t.Error("OnClose sees another Ref than before")
			}
			wantClosed(t, "in OnClose", c.Ref())
		}})
		v.Loops = 1
		srv := serve(t, v.Options, s)
		c := srv.dial()
		first = await(t, opened, "a connection to open")
		srv.onLoop(0, func(l *loop) {
			conn = l.testConns()[0]
			if conn.Ref() != first {
				t.Error("a second Ref of the connection is another one")
			}
			conn.Close()
			if err := first.Send([]byte("x")); !errors.Is(err, ErrClosed) {
				t.Errorf("send after Close: %v", err)
			}
		})
		srv.wantCause(nil)
		wantRest(t, c, nil)
		wantClosed(t, "after the end", first)
		srv.onLoop(0, func(*loop) {
			if conn.Ref() != first {
				t.Error("after the end it is another Ref")
			}
		})
		// The next connection gets the same slot.
		first2 := first
		first = Ref{}
		_ = srv.dial()
		second := await(t, opened, "a connection to open")
		if second == first2 || map[Ref]bool{first2: true}[second] {
			t.Error("two connections have the same Ref")
		}
		wantClosed(t, "after another connection has opened", first2)
		if err := second.Send([]byte("x")); err != nil {
			t.Errorf("send to the second: %v", err)
		}
		if err := srv.shutdown(); err != nil {
			t.Error(err)
		}
		wantClosed(t, "after the server's end", second)
	}, "default", "epoll", "loops", "all small")
}

// Between the use of a Ref and the loop's turn the connection may end: everything
// that it was to get has to go home.
func TestRefsUsedBeforeTheEndAreDroppedAfterIt(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		v.Loops = 1
		leases := make(chan bufring.Lease, 1)
		s, opened := refs(2, script{data: func(c *Conn, b []byte) int {
			lease, err := c.Detach()
			if err != nil {
				t.Error(err)
			}
			leases <- lease
			return 0
		}})
		srv := serve(t, v.Options, s)
		other := srv.dial()
		_ = await(t, opened, "a connection to open")
		_ = srv.dial()
		ref := await(t, opened, "a connection to open")
		write(t, other, payload(1, 50))
		lease := await(t, leases, "a lease")
		release := srv.hold(0)
		var calls atomic.Int32
		cause := errors.New("by Ref")
		for _, err := range []error{
			ref.Wake(), ref.Abort(cause), ref.Abort(io.EOF), ref.Send([]byte("x")), ref.Send(payload(1, 10000)), ref.SendLease(lease),
			ref.SendMessage(NewMessage([]byte("x"))), ref.Post(func(*Conn) { t.Error("a function is called for a connection that has ended") }),
			ref.PostOr(func(c *Conn) {
				if c != nil {
					t.Error("a function is given a connection that has ended")
				}
				calls.Add(1)
			}),
			ref.PostOr(func(c *Conn) { panic("contained, though there is no connection") }),
			ref.Wake(), ref.Close(), ref.Close(),
		} {
			if err != nil {
				t.Error(err)
			}
		}
		if n, err := srv.Broadcast([]Ref{ref, ref}, NewMessage([]byte("x"))); n != 2 || err != nil {
			t.Errorf("broadcast: %d, %v", n, err)
		}
		release()
		srv.wantCause(cause)
		st := srv.Stats()
		if calls.Load() != 1 || st.PostsDropped != 9 || st.Panics != 1 {
			t.Errorf("%d calls, %d posts dropped, %d panics: want 1, 9, 1", calls.Load(), st.PostsDropped, st.Panics)
		}
		if st.LeasesOut != 0 || st.CopiesOut != 0 {
			t.Errorf("%d leases and %d copies are out", st.LeasesOut, st.CopiesOut)
		}
	}, "default", "epoll", "no features")
}

func TestPostsThatPanicEndTheirConnection(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		s, opened := refs(2, echoWrite(t))
		srv := serve(t, v.Options, s)
		c := srv.dial()
		bad := await(t, opened, "a connection to open")
		d := srv.dial()
		good := await(t, opened, "a connection to open")
		for i := range 200 { // over several chunks
			if err := good.Send([]byte{byte(i)}); err != nil {
				t.Fatal(err)
			}
			if i == 70 || i == 71 {
				if err := bad.Post(func(*Conn) { panic("posted") }); err != nil && i == 70 {
					t.Fatal(err)
				}
			}
		}
		var panicked *PanicError
		if err := srv.cause(); !errors.As(err, &panicked) || panicked.Value != "posted" {
			t.Errorf("OnClose was told %v", err)
		}
		want := make([]byte, 200)
		for i := range want {
			want[i] = byte(i)
		}
		wantRead(t, d, want)
		_, _ = io.ReadAll(c)
	}, "default", "epoll", "loops", "queues of 1 and 2")
}

// wakeful is a handler that counts OnWake.
type wakeful struct {
	*witness
	wake func(c *Conn)
}

func (h wakeful) OnWake(c *Conn) {
	h.enter(c, "OnWake")
	defer h.leave(c)
	h.wake(c)
}

func serveWakeful(t *testing.T, o Options, s script, wake func(c *Conn)) *server {
	w := newWitness(t, s)
	srv := serveHandler(t, o, wakeful{w, wake})
	srv.w = w
	return srv
}

func TestManyWakesAreOne(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		v.Loops, v.MaxPosted = 1, 1
		const posters = 8
		// Written without a lock: a call of Wake is enough for OnWake to see it.
		var news [posters]int
		var calls atomic.Int32
		seen := make(chan int, 100)
		s, opened := refs(2, script{})
		srv := serveWakeful(t, v.Options, s, func(*Conn) {
			calls.Add(1)
			sum := 0
			for _, n := range news {
				sum += n
			}
			seen <- sum
		})
		_ = srv.dial()
		ref := await(t, opened, "a connection to open")
		for round := range 20 {
			release := srv.hold(0)
			if err := crowd(posters, func(i int) error {
				news[i]++
				for range 100 {
					if err := ref.Wake(); err != nil { // also where the mailbox is full
						return err
					}
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			release()
			if sum := await(t, seen, "OnWake"); sum != posters*(round+1) {
				t.Errorf("OnWake sees %d, want %d", sum, posters*(round+1))
			}
		}
		srv.onLoop(0, func(*loop) {})
		if n := calls.Load(); n != 20 {
			t.Errorf("OnWake was called %d times for 20 crowds of wakes", n)
		}
	}, "default", "epoll", "no sync message")
}

func TestEveryWakeIsFollowedByACall(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		var told, seen atomic.Int64
		s, opened := refs(1, script{})
		srv := serveWakeful(t, v.Options, s, func(*Conn) { seen.Store(told.Load()) })
		_ = srv.dial()
		ref := await(t, opened, "a connection to open")
		for range few(2000) {
			n := told.Add(1)
			if err := ref.Wake(); err != nil {
				t.Fatal(err)
			}
			for end := time.Now().Add(patience); seen.Load() < n; {
				if time.Now().After(end) {
					t.Fatalf("OnWake has not seen %d", n)
				}
				time.Sleep(time.Microsecond)
			}
		}
	}, "default", "epoll", "no spin", "no sync message", "queues of 1 and 2")
}

func TestWakeWithoutAHandlerDoesNothing(t *testing.T) {
	s, opened := refs(1, echoWrite(t))
	srv := serve(t, Options{Loops: 1}, s)
	c := srv.dial()
	ref := await(t, opened, "a connection to open")
	for range 3 {
		if err := ref.Wake(); err != nil {
			t.Error(err)
		}
		wantEcho(t, c, []byte("x"))
	}
}

func TestRefCloseSendsWhatWasSentBefore(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		s, opened := refs(1, script{})
		v.MaxBuffered = 1 << 30
		srv := serve(t, v.Options, s)
		c := srv.dial()
		ref := await(t, opened, "a connection to open")
		size := 300_000
		if v.slow {
			size = 10_000
		}
		p := payload(1, size)
		if err := errors.Join(ref.Send(p[:10]), ref.Send(p[10:size/2]), ref.SendMessage(NewMessage(p[size/2:])), ref.Close()); err != nil {
			t.Fatal(err)
		}
		wantRest(t, c, p)
		srv.wantCause(nil)
	})
}

func TestTheMailboxIsBoundedForRefs(t *testing.T) {
	for _, cs := range []struct {
		name string
		Options
		post  func(r Ref, srv *server) error
		taken int
	}{
		{name: "letters", Options: Options{MaxPosted: 10}, taken: 10, post: func(r Ref, _ *server) error { return r.Send([]byte("x")) }},
		{name: "functions", Options: Options{MaxPosted: 10}, taken: 10, post: func(r Ref, _ *server) error { return r.Post(func(*Conn) {}) }},
		{name: "bytes, small", Options: Options{MaxPostedBytes: 1000}, taken: 10, post: func(r Ref, _ *server) error { return r.Send(make([]byte, 100)) }},
		{name: "bytes, large", Options: Options{MaxPostedBytes: 50_000}, taken: 5, post: func(r Ref, _ *server) error { return r.Send(make([]byte, 10_000)) }},
		{name: "larger than all", Options: Options{MaxPostedBytes: 10}, taken: 1, post: func(r Ref, _ *server) error { return r.Send(make([]byte, 100)) }},
		{name: "leases", Options: Options{MaxPostedBytes: 50_000}, taken: 5, post: func(r Ref, _ *server) error { return r.SendLease(bufring.Wrap(make([]byte, 10_000))) }},
		{name: "messages", Options: Options{MaxPostedBytes: 50_000}, taken: 5, post: func(r Ref, _ *server) error { return r.SendMessage(NewMessage(make([]byte, 10_000))) }},
		{name: "broadcasts", Options: Options{MaxPosted: 7}, taken: 7, post: func(r Ref, srv *server) error {
			_, err := srv.Broadcast([]Ref{r}, NewMessage([]byte("x")))
			return err
		}},
		{name: "broadcasts to all", Options: Options{MaxPosted: 7}, taken: 7, post: func(_ Ref, srv *server) error { return srv.BroadcastAll(NewMessage([]byte("x"))) }},
	} {
		t.Run(cs.name, func(t *testing.T) {
			s, opened := refs(1, script{})
			cs.Loops = 1
			srv := serve(t, cs.Options, s)
			c := srv.dial()
			ref := await(t, opened, "a connection to open")
			release := srv.hold(0)
			taken := 0
			var err error
			for ; err == nil && taken < 100; taken++ {
				err = cs.post(ref, srv)
			}
			if taken--; taken != cs.taken || !errors.Is(err, ErrBusy) {
				t.Errorf("%d were taken, and then %v: want %d, and ErrBusy", taken, err, cs.taken)
			}
			if err := errors.Join(ref.Wake(), ref.Close(), ref.Abort(nil)); err != nil {
				t.Errorf("of these there is one each, and it must not be refused: %v", err)
			}
			release()
			srv.wantCause(nil)
			_, _ = io.ReadAll(c)
		})
	}
}

// A callback may post to its own loop: that must not wait for itself, and needs no
// wake-up.
func TestRefsOnTheirOwnLoop(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		v.Loops, v.MaxPosted = 1, 20
		var srv *server
		busy := 0
		s := script{data: func(c *Conn, b []byte) int {
			r := c.Ref()
			for i := range b {
				if err := r.Send(b[i : i+1]); errors.Is(err, ErrBusy) {
					busy++
					if err := r.Post(func(c *Conn) {}); !errors.Is(err, ErrBusy) {
						t.Errorf("post: %v", err)
					}
					return i
				} else if err != nil {
					t.Errorf("send: %v", err)
				}
			}
			return len(b)
		}}
		srv = serve(t, v.Options, s)
		c := srv.dial()
		wantEcho(t, c, payload(1, 5))
		before := srv.Stats().Wakeups
		for i := range 20 {
			wantEcho(t, c, payload(uint64(i), 20))
		}
		// What asks for the counters wakes the loop itself, and only that does.
		if n := srv.Stats().Wakeups - before; n > 1 {
			t.Errorf("%d wake-ups of a loop by its own callbacks", n)
		}
		if busy > 0 {
			t.Errorf("20 letters found the mailbox full %d times", busy)
		}
	}, "default", "epoll", "no spin", "no sync message")
}

// A flood of posts is worked off in parts, and connections have their turn between
// them.
func TestPostersDoNotStarveConnections(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		v.Loops = 1
		s, opened := refs(1, echoWrite(t))
		srv := serve(t, v.Options, s)
		c := srv.dial()
		ref := await(t, opened, "a connection to open")
		// A letter that always posts itself again, and as many of them as a turn
		// works off, twice.
		var stop atomic.Bool
		var again func(*Conn)
		again = func(*Conn) {
			if !stop.Load() {
				if err := ref.Post(again); err != nil {
					t.Errorf("post: %v", err)
				}
			}
		}
		for range 2 * mailBudget {
			if err := ref.Post(again); err != nil {
				t.Fatal(err)
			}
		}
		for i := range 20 {
			wantEcho(t, c, payload(uint64(i), 100))
		}
		stop.Store(true)
	}, "default", "epoll", "queues of 1 and 2")
}

func TestBroadcastReachesEveryConnection(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		const conns = 150 // more than a chunk
		rounds, most := max(4, few(12)), 5000
		if v.slow {
			rounds, most = 4, 300
		}
		s, opened := refs(conns, script{})
		v.MaxBuffered = 1 << 30
		srv := serve(t, v.Options, s)
		var to []Ref
		var clients []stdnet.Conn
		for range conns {
			clients = append(clients, srv.dial())
			to = append(to, await(t, opened, "a connection to open"))
		}
		for seq := range rounds {
			m := NewMessage(newPost(0, uint32(seq), seq*most/rounds))
			if seq%3 == 2 {
				if err := srv.BroadcastAll(m); err != nil {
					t.Fatal(err)
				}
				continue
			}
			if n, err := srv.Broadcast(to, m); n != conns || err != nil {
				t.Fatalf("broadcast: %d, %v", n, err)
			}
		}
		if n, err := srv.Broadcast(to, Message{}); n != 0 || err != nil {
			t.Errorf("broadcast of nothing: %d, %v", n, err)
		}
		if err := crowd(conns, func(i int) error {
			r := bufio.NewReader(clients[i])
			for seq := range rounds {
				if _, got, err := readPost(r); err != nil || got != uint32(seq) {
					return fmt.Errorf("post %d in place of %d, %w", got, seq, err)
				}
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
		_ = to[0].Close()
		until(t, "one to have ended", func() bool { return srv.Stats().Connections == conns-1 })
		if n, err := srv.Broadcast(append(to, Ref{}), NewMessage([]byte("x"))); n != conns-1 || err != nil {
			t.Errorf("broadcast to those that are left: %d, %v", n, err)
		}
	})
}

func TestBroadcastSaysWhatIsWrong(t *testing.T) {
	m := NewMessage([]byte("x"))
	var unborn Server
	if n, err := unborn.Broadcast(nil, m); n != 0 || err == nil {
		t.Errorf("before the start: %d, %v", n, err)
	}
	if err := unborn.BroadcastAll(m); err == nil {
		t.Error("before the start: no error")
	}
	s, opened := refs(2, script{})
	one, two := serve(t, Options{Loops: 2}, s), serve(t, Options{Loops: 1}, s)
	c, d := one.dial(), two.dial()
	a, b := await(t, opened, "a connection to open"), await(t, opened, "a connection to open")
	if a.a.l.o == two.loops[0].o {
		a, b = b, a
	}
	if n, err := one.Broadcast([]Ref{a, b}, m); n != 0 || err == nil {
		t.Errorf("to another server's connection: %d, %v", n, err)
	}
	if n, err := one.Broadcast([]Ref{a}, m); n != 1 || err != nil {
		t.Errorf("to its own: %d, %v", n, err)
	}
	wantRead(t, c, []byte("x"))
	if err := two.shutdown(); err != nil {
		t.Error(err)
	}
	wantRest(t, d, nil)
	if n, err := two.Broadcast([]Ref{b}, m); n != 0 || err != nil {
		t.Errorf("after the end: %d, %v", n, err)
	}
	if err := two.BroadcastAll(m); !errors.Is(err, ErrServerClosed) {
		t.Errorf("after the end: %v", err)
	}
}

// refuser is a handler that counts OnRefused.
type refuser struct {
	*witness
	refused func(c *Conn, n int)
}

func (h refuser) OnRefused(c *Conn, n int) {
	h.enter(c, "OnRefused")
	defer h.leave(c)
	h.refused(c, n)
}

// Who does not read misses whole messages, knows of it by their numbers, and keeps
// nobody else from getting theirs.
func TestSlowPeersMissWholeMessages(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		const size = 4000
		v.HighWater, v.LowWater, v.MaxBuffered = 20_000, 10_000, 40_000
		var missed atomic.Int64
		s, opened := refs(2, script{})
		w := newWitness(t, s)
		srv := serveHandler(t, v.Options, refuser{w, func(_ *Conn, n int) {
			if n != size+postHead {
				t.Errorf("%d bytes are refused, the message has %d", n, size+postHead)
			}
			missed.Add(1)
		}})
		srv.w = w
		slow := srv.dial()
		slowRef := await(t, opened, "a connection to open")
		quick := srv.dial()
		quickRef := await(t, opened, "a connection to open")
		r := bufio.NewReader(quick)
		sent := uint32(0)
		post := func(send func(m Message)) {
			send(NewMessage(newPost(0, sent, size)))
			if _, seq, err := readPost(r); err != nil || seq != sent {
				t.Fatalf("the one that reads gets post %d in place of %d, %v", seq, sent, err)
			}
			sent++
		}
		toSlow := 0
		for missed.Load() < 3 {
			if sent > 20_000 {
				t.Fatal("nothing is refused")
			}
			post(func(m Message) {
				n, err := srv.Broadcast([]Ref{slowRef, quickRef}, m)
				if n < 1 || err != nil {
					t.Fatalf("broadcast: %d, %v", n, err)
				}
				toSlow += n - 1
				if n == 1 { // by now it is known that it takes no more
					missed.Add(1)
				}
			})
		}
		refused := int(srv.Stats().Refused)
		// What it takes in the end is whole, and in order.
		last := make(chan int, 1)
		go func() {
			r := bufio.NewReader(slow)
			n, next := 0, uint32(0)
			for {
				_, seq, err := readPost(r)
				if err == nil && seq < next {
					err = fmt.Errorf("post %d comes after %d", seq, next)
				}
				if err != nil {
					t.Errorf("the slow one, after %d posts: %v", n, err)
					last <- n
					return
				}
				next = seq + 1
				n++
				if seq == 1_000_000 {
					last <- n - 1
					return
				}
			}
		}()
		if err := try(func() error { return slowRef.Send(newPost(0, 1_000_000, 1)) }); err != nil {
			t.Errorf("send to one that has room again: %v", err)
		}
		if n := await(t, last, "the slow one to read"); n != toSlow-refused {
			t.Errorf("the slow one gets %d posts, %d were passed on and %d of these refused", n, toSlow, refused)
		}
	}, "default", "epoll", "loops", "no features")
}

// From a refusal on, until there is room again, Refs say so at once.
func TestRefsOfAFullConnectionSaySo(t *testing.T) {
	s, opened := refs(1, script{})
	srv := serve(t, Options{Loops: 1, HighWater: 1000, LowWater: 500, MaxBuffered: 5000}, s)
	c := srv.dial()
	ref := await(t, opened, "a connection to open")
	var sent []byte
	srv.onLoop(0, func(l *loop) { // so nothing goes out meanwhile
		conn := l.testConns()[0]
		send := func(want error, b []byte) {
			t.Helper()
			if err := ref.Send(b); !errors.Is(err, want) {
				t.Errorf("send: %v, want %v", err, want)
			} else if err == nil {
				l.runMail()
			}
		}
		sent = payload(1, 4500)
		if _, err := conn.Write(sent); err != nil {
			t.Error(err)
		}
		conn.state &^= isDirty // nothing is settled within this test
		l.dirty = l.dirty[:0]
		conn.state |= full
		send(nil, make([]byte, 501)) // taken, and refused on the loop
		if n := l.stats.Refused; n != 1 {
			t.Errorf("%d were refused", n)
		}
		send(ErrBacklog, []byte("x"))
		if n, err := srv.Broadcast([]Ref{ref}, NewMessage([]byte("x"))); n != 0 || err != nil {
			t.Errorf("broadcast: %d, %v", n, err)
		}
		for _, err := range []error{ref.Post(func(*Conn) {}), ref.Wake()} {
			if err != nil {
				t.Errorf("what sends nothing is refused: %v", err)
			}
		}
		conn.state &^= full
		l.mark(conn)
	})
	wantRead(t, c, sent)
	if err := try(func() error { return ref.Send([]byte("y")) }); err != nil {
		t.Errorf("send to one that has room again: %v", err)
	}
	wantRead(t, c, []byte("y"))
}

// Connections come and go while others post to them: nothing is lost but what ended
// connections were to get.
func TestPostsToConnectionsThatComeAndGo(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		var mu sync.Mutex
		room := map[Ref]bool{}
		s := script{
			open: func(c *Conn) { mu.Lock(); room[c.Ref()] = true; mu.Unlock() },
			close: func(c *Conn, _ error) {
				mu.Lock()
				defer mu.Unlock()
				if !room[c.Ref()] {
					t.Error("a connection ends that is not in the room")
				}
				delete(room, c.Ref())
			},
		}
		srv := serve(t, v.Options, s)
		var over atomic.Bool
		var either, called atomic.Int64
		var posting sync.WaitGroup
		for p := range 3 {
			posting.Go(func() {
				m := NewMessage(payload(1, 300))
				for n := 0; !over.Load(); n++ {
					mu.Lock()
					var all []Ref
					for r := range room {
						all = append(all, r)
					}
					mu.Unlock()
					if _, err := srv.Broadcast(all, m); err != nil && !errors.Is(err, ErrBusy) {
						t.Errorf("broadcast: %v", err)
					}
					for i, r := range all {
						_ = r.Send(m.b)
						_ = r.Wake()
						if r.PostOr(func(*Conn) { called.Add(1) }) == nil {
							either.Add(1)
						}
						switch (n + i + p) % 11 {
						case 0:
							_ = r.Close()
						case 1:
							_ = r.Abort(io.ErrClosedPipe)
						}
					}
					time.Sleep(100 * time.Microsecond)
				}
			})
		}
		err := crowd(6, func(i int) error {
			for range few(24) {
				c, err := connect(srv.addr())
				if err != nil {
					return err
				}
				_, _ = io.CopyN(io.Discard, c, int64(1000*i))
				if i%2 == 0 {
					_ = c.SetLinger(0)
				}
				_ = c.Close()
			}
			return nil
		})
		over.Store(true)
		posting.Wait()
		if err != nil {
			t.Error(err)
		}
		until(t, "all to have ended", func() bool { return srv.Stats().Connections == 0 })
		if err := srv.shutdown(); err != nil {
			t.Error(err)
		}
		if either.Load() != called.Load() {
			t.Errorf("%d functions were taken by PostOr, %d were called", either.Load(), called.Load())
		}
		if len(room) != 0 {
			t.Errorf("%d are left in the room", len(room))
		}
	}, "default", "poisoned", "epoll", "loops", "no features", "low water marks", "queues of 1 and 2")
}

func TestNoAllocationPerPost(t *testing.T) {
	s, opened := refs(1, script{})
	srv := serve(t, Options{Loops: 1}, s)
	c := srv.dial()
	ref := await(t, opened, "a connection to open")
	m := NewMessage(payload(2, 3000))
	p, got := payload(1, 64), make([]byte, 10*(64+3000))
	round := func() {
		for range 10 {
			if ref.Send(p) != nil || ref.SendMessage(m) != nil || ref.Wake() != nil {
				t.Error("a post is refused")
			}
		}
		if _, err := io.ReadFull(c, got); err != nil {
			t.Error(err)
		}
	}
	for range 100 {
		round()
	}
	if n := testing.AllocsPerRun(200, round); n > 1 {
		t.Errorf("%.1f allocations for 30 posts", n)
	}
}
