//go:build linux

package net

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"example.com/ringnet/bufring"
	"example.com/ringnet/ring"
)

// mailModel is the protocol of mailbox between one loop and some posters, step by
// step: each is what one processor does at once. wrong plants a mistake.
type mailModel struct {
	state  uint32
	queue  int // letters
	wakes  int // wake-ups that wait for the loop's next sleep
	loop   int // where the loop is
	poster [2]struct{ at, left int }
}

type mailMistake int

const (
	noMistake mailMistake = iota
	looksAndThenClears
	dozesWithoutLooking
	wakesAndThenEnqueues
	sleepsAlthoughRoused
	mailMistakes
)

// The loop's steps.
const (
	loopLooks = iota // at state
	loopClears
	loopTakes
	loopDozes
	loopSleeps
	loopAwakes
)

// steps are the states that may follow.
func (m mailModel) steps(wrong mailMistake) (next []mailModel) {
	n := m
	switch m.loop {
	case loopLooks:
		n.loop = loopDozes
		if m.state == mailRoused {
			n.loop = loopClears
			if wrong == looksAndThenClears {
				n.loop = loopTakes
			}
		}
		next = append(next, n)
	case loopClears:
		n.state, n.loop = mailAwake, loopTakes
		if wrong == looksAndThenClears {
			n.loop = loopDozes
		}
		next = append(next, n)
	case loopTakes:
		n.queue, n.loop = 0, loopDozes
		if wrong == looksAndThenClears {
			n.loop = loopClears
		}
		next = append(next, n)
	case loopDozes:
		switch {
		case m.state == mailAwake:
			n.state, n.loop = mailAsleep, loopSleeps
		case wrong == dozesWithoutLooking:
			n.state, n.loop = mailAsleep, loopSleeps
		case wrong == sleepsAlthoughRoused:
			n.loop = loopSleeps
		default:
			n.loop = loopLooks
		}
		next = append(next, n)
	case loopSleeps:
		if m.wakes > 0 {
			n.wakes, n.loop = 0, loopAwakes
			next = append(next, n)
		}
	case loopAwakes:
		if m.state == mailAsleep {
			n.state = mailAwake
		}
		n.loop = loopLooks
		next = append(next, n)
	}
	for i := range m.poster {
		n, p := m, m.poster[i]
		if p.left == 0 {
			continue
		}
		enqueue, load, swap := 0, 1, 2
		if wrong == wakesAndThenEnqueues {
			load, swap, enqueue = 0, 1, 2
		}
		switch p.at {
		case enqueue:
			n.queue++
			p.at++
		case load:
			if p.at++; m.state == mailRoused {
				p.at++
			}
		case swap:
			if n.state = mailRoused; m.state == mailAsleep {
				n.wakes++
			}
			p.at++
		}
		if p.at > 2 {
			p.at = 0
			p.left--
		}
		n.poster[i] = p
		next = append(next, n)
	}
	return next
}

// explore goes through every order in which the steps may come, and reports a
// state in which letters lie in the queue and nothing will ever happen any more.
func explore(wrong mailMistake) (states int, lost bool) {
	first := mailModel{}
	for i := range first.poster {
		first.poster[i].left = 3
	}
	known := map[mailModel]bool{first: true}
	for todo := []mailModel{first}; len(todo) > 0; {
		m := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		next := m.steps(wrong)
		if len(next) == 0 && m.queue > 0 {
			lost = true
		}
		for _, n := range next {
			if !known[n] {
				known[n] = true
				todo = append(todo, n)
			}
		}
	}
	return len(known), lost
}

func TestMailboxProtocolLosesNoWakeUp(t *testing.T) {
	states, lost := explore(noMistake)
	t.Logf("%d states", states)
	if lost {
		t.Error("there is an order of steps in which a wake-up is lost")
	}
	if states < 500 {
		t.Errorf("only %d states were seen", states)
	}
	// Else the model would not show what it is there for.
	for wrong := noMistake + 1; wrong < mailMistakes; wrong++ {
		if _, lost := explore(wrong); !lost {
			t.Errorf("mistake %d loses no wake-up in the model", wrong)
		}
	}
}

// What the model calls a step is what the mailbox does.
func TestMailboxGoesThroughItsStates(t *testing.T) {
	woken := 0
	m := mailbox{wake: func() { woken++ }, maxLetters: 10}
	want := func(what string, state uint32, wakes int) {
		t.Helper()
		if got := m.state.Load(); got != state || woken != wakes {
			t.Errorf("%s: state %d, woken %d times, want %d, %d", what, got, woken, state, wakes)
		}
	}
	post := func() {
		t.Helper()
		if err := m.post(func() {}); err != nil {
			t.Fatal(err)
		}
	}
	post()
	want("a post while the loop is awake", mailRoused, 0)
	if m.doze() {
		t.Error("the loop sleeps over a post")
	}
	if !m.take() || !m.more() || m.take() != true {
		t.Error("the post is not there")
	}
	want("after the loop looked", mailAwake, 0)
	if m.doze() {
		t.Error("the loop sleeps over letters that it took")
	}
	m.pop()
	if m.more() || m.take() {
		t.Error("a letter is there twice")
	}
	if !m.doze() {
		t.Error("the loop does not sleep")
	}
	want("asleep", mailAsleep, 0)
	post()
	post()
	want("two posts while it sleeps", mailRoused, 1)
	m.awoke()
	want("awake for the posts", mailRoused, 1)
	m.take()
	m.pop()
	m.pop()
	m.doze()
	m.awoke()
	want("awake for something else", mailAwake, 1)
	post()
	want("a post after that", mailRoused, 1)
	m.close()
	if err := m.post(func() {}); !errors.Is(err, ErrServerClosed) {
		t.Errorf("post after close: %v", err)
	}
	if err := m.demand(letter{}); !errors.Is(err, ErrServerClosed) {
		t.Errorf("demand after close: %v", err)
	}
	if !m.take() {
		t.Error("what came before close is lost")
	}
}

// Small sends lie in memory that is used again, and grows: none may come out
// changed.
func TestMailboxKeepsBytesApart(t *testing.T) {
	m := mailbox{wake: func() {}, maxLetters: 1 << 20, maxBytes: 1 << 30}
	r := rand.New(rand.NewPCG(1, 2))
	for range few(60) {
		n := r.IntN(3000)
		sizes := make([]int, n)
		for i := range sizes {
			sizes[i] = r.IntN(100)
			if r.IntN(50) == 0 {
				sizes[i] = r.IntN(2 * smallSend)
			}
			b := payload(uint64(i), sizes[i])
			if err := m.putCopy(nil, b); err != nil {
				t.Fatal(err)
			}
			clear(b)
		}
		m.take()
		// The next ones are posted while these are worked off.
		for range 100 {
			if err := m.putCopy(nil, []byte("of the next batch")); err != nil {
				t.Fatal(err)
			}
		}
		for i, size := range sizes {
			x := m.pop()
			if err := differ(x.mem, payload(uint64(i), size)); err != nil {
				t.Fatalf("send %d: %v", i, err)
			}
			if cap(x.mem) != len(x.mem) && x.kind == letterCopy {
				t.Fatal("an append to it would write over the next one")
			}
		}
		if m.more() {
			t.Fatal("there are more letters than were posted")
		}
		m.take()
		for m.more() {
			m.pop()
		}
	}
	// After a crowd, memory is given back.
	for range 5 {
		_ = m.putCopy(nil, []byte("x"))
		m.take()
		m.pop()
	}
	if n, bytes := cap(m.batch)+cap(m.queue), cap(m.batchSmall)+cap(m.small); n > 2*keepLetters || bytes > 2*keepBytes {
		t.Errorf("it keeps room for %d letters and %d bytes", n, bytes)
	}
}

// stressVariable makes the stress test longer: a duration.
const stressVariable = "RINGNET_TEST_STRESS"

// Goroutines that post, sleep, close and broadcast as they like, on a loop that
// falls asleep in between: every letter has its effect, and soon.
func TestPostingUnderStress(t *testing.T) {
	long := time.Second
	if testing.Short() {
		long = 200 * time.Millisecond
	}
	if v := os.Getenv(stressVariable); v != "" {
		d, err := time.ParseDuration(v)
		if err != nil {
			t.Fatal(err)
		}
		long = d
	}
	cases := []struct {
		name string
		Options
	}{
		{name: "message", Options: Options{Loops: 2, Spin: -1, poison: true}},
		{name: "eventfd", Options: Options{Loops: 1, Mask: ring.SyncMessage, poison: true}},
		{name: "epoll", Options: Options{Loops: 1, Engine: ring.Epoll, poison: true}},
		{name: "smallest queues", Options: Options{Loops: 1, EntryCount: 1, CompletionCount: 2, poison: true}},
	}
	for _, cs := range cases {
		t.Run(cs.name, func(t *testing.T) {
			stressPosts(t, cs.Options, long/time.Duration(len(cases)))
		})
	}
}

func stressPosts(t *testing.T, o Options, long time.Duration) {
	const conns, posters = 6, 4
	var mu sync.Mutex
	var room []Ref
	woken := map[Ref]*atomic.Int64{}
	s := script{
		open: func(c *Conn) {
			mu.Lock()
			defer mu.Unlock()
			room = append(room, c.Ref())
			woken[c.Ref()] = new(atomic.Int64)
		},
		close: func(c *Conn, _ error) {
			mu.Lock()
			defer mu.Unlock()
			for i, r := range room {
				if r == c.Ref() {
					room = append(room[:i:i], room[i+1:]...)
					return
				}
			}
			t.Error("a connection ends that is not in the room")
		},
	}
	o.MaxPosted = 300
	srv := serveWakeful(t, o, s, func(c *Conn) {
		mu.Lock()
		defer mu.Unlock()
		woken[c.Ref()].Add(1)
	})
	var seq, either, called, work, results, posts atomic.Int64
	end := time.Now().Add(long)
	over := func() bool { return time.Now().After(end) }
	var readers sync.WaitGroup
	client := func() error {
		for !over() {
			c, err := connect(srv.addr())
			if err != nil {
				return err
			}
			r := bufio.NewReader(c)
			for n := 0; ; n++ {
				_ = c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
				if _, err := r.Peek(1); err != nil {
					break // it was closed, or nothing is sent any more
				}
				_ = c.SetReadDeadline(time.Now().Add(patience))
				if _, _, err := readPost(r); err != nil && isWrong(err) {
					_ = c.Close()
					return err
				}
				if n > 500 {
					break
				}
			}
			_ = c.Close()
		}
		return nil
	}
	failed := make(chan error, conns)
	for range conns {
		readers.Go(func() { failed <- client() })
	}
	err := crowd(posters, func(poster int) error {
		r := rand.New(rand.NewPCG(uint64(poster), 7))
		for !over() {
			mu.Lock()
			to := append([]Ref(nil), room...)
			mu.Unlock()
			if len(to) == 0 {
				time.Sleep(time.Millisecond)
				continue
			}
			ref := to[r.IntN(len(to))]
			b := newPost(uint32(poster), uint32(seq.Add(1)), r.IntN(100)*r.IntN(100))
			posts.Add(1)
			switch r.IntN(12) {
			case 0:
				_ = ref.SendLease(bufring.Wrap(b))
			case 1:
				_, _ = srv.Broadcast(to, NewMessage(b))
			case 2:
				_ = srv.BroadcastAll(NewMessage(b))
			case 3:
				if r.IntN(20) == 0 {
					_ = ref.Close()
				}
			case 4:
				if r.IntN(50) == 0 {
					_ = ref.Abort(nil)
				}
			case 5:
				_ = ref.Wake()
			case 6:
				_ = ref.Post(func(c *Conn) {
					if Offload(c, func() (resource, error) { return resource{func(string) { results.Add(1) }}, nil },
						func(*Conn, resource, error) { results.Add(1) }) == nil {
						work.Add(1)
					}
				})
			case 7, 8:
				if ref.PostOr(func(*Conn) { called.Add(1) }) == nil {
					either.Add(1)
				}
			default:
				_ = ref.Send(b)
			}
			if r.IntN(4) == 0 { // let it fall asleep
				// The loop must take it up, whoever else posts or not.
				done := make(chan struct{})
				if ref.PostOr(func(*Conn) { close(done) }) == nil {
					select {
					case <-done:
					case <-time.After(patience):
						return fmt.Errorf("a post was not taken up within %v\n%s", patience, stacks())
					}
				}
				time.Sleep(time.Duration(r.IntN(300)) * time.Microsecond)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	readers.Wait()
	for range conns {
		if err := <-failed; err != nil {
			t.Error(err)
		}
	}
	if err := srv.shutdown(); err != nil {
		t.Error(err)
	}
	st := srv.Stats()
	t.Logf("%d posts, %d letters, %d dropped, %d refused, %d wake-ups, %d connections", posts.Load(), st.Posts, st.PostsDropped, st.Refused, st.Wakeups, st.Accepted)
	if either.Load() != called.Load() {
		t.Errorf("%d functions were taken by PostOr, %d were called", either.Load(), called.Load())
	}
	if work.Load() != results.Load() {
		t.Errorf("%d pieces of work were offloaded, %d results came back or were released", work.Load(), results.Load())
	}
}

// isWrong tells bytes that are not what was sent from a connection that ended.
func isWrong(err error) bool {
	var op interface{ Timeout() bool }
	return !errors.As(err, &op) && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF)
}
