//go:build linux

package main

import (
	"container/list"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"example.com/ringnet/net"
)

// What is known of a path is looked up again when it is older than goodFor, so that a
// change is seen within a second. In the last part of that time the first request for it
// has somebody look, and goes on with what there is: files that are asked for all the time
// never keep anybody waiting.
const (
	goodFor  = 990 * time.Millisecond
	freshFor = 700 * time.Millisecond
)

// entry is what a path stands for. It belongs to one loop from when it is in its cache.
type entry struct {
	path     string
	redirect bool // a directory's name, without the slash at its end
	reps     [len(codings)]*representation
	stamps   [len(codings)]stamp
	rests    bool // its files have not been changed lately, so that their stamps can be trusted

	asOf  time.Duration // when it was looked up; of the desk's clock
	place *list.Element // in the cache; nil: it is not any more
	users int           // answers that are made of it
}

// memory and open are what it takes.
func (e *entry) memory() int64 {
	n := int64(512 + len(e.path))
	for _, r := range e.reps {
		if r != nil {
			n += r.memory()
		}
	}
	return n
}

func (e *entry) open() (n int) {
	for _, r := range e.reps {
		if r != nil && r.file != nil {
			n++
		}
	}
	return n
}

// free closes its files; a transfer that is under way goes on.
func (e *entry) free() {
	for _, r := range e.reps {
		if r != nil && r.file != nil {
			_ = r.file.Close()
		}
	}
}

// release ends the use of an entry.
func (k *cache) release(e *entry) {
	if e.users--; e.users == 0 && e.place == nil {
		k.discard(e)
	}
}

// discard frees an entry beside the loop: to close the last descriptor of a large file that
// has been deleted can take as long as it takes to delete it.
func (k *cache) discard(e *entry) {
	if e.open() > 0 {
		k.closing.Go(e.free)
	}
}

// cache are the entries that were used last. Only on its loop's goroutine.
type cache struct {
	maxMemory, memory int64
	maxOpen, open     int
	entries           map[string]*entry
	order             list.List // of entries; the one used last is first
	looking           map[string]*lookup
	closing           sync.WaitGroup // what is being freed

	// Looks are let in by tickets: each waits for the end of the one that had its place in
	// line before. So there are never more of them than places, and none is passed over.
	line []*net.Fiber
	next int // place
}

func (k *cache) init(memory int64, open, looks int) {
	k.maxMemory, k.maxOpen, k.line = memory, open, make([]*net.Fiber, looks)
	k.entries = map[string]*entry{}
	k.looking = map[string]*lookup{}
}

// close frees all entries, when the loop has ended.
func (k *cache) close() {
	k.closing.Wait()
	for _, e := range k.entries {
		e.free()
	}
}

// put takes an entry in, in place of one for the same path, and others out.
func (k *cache) put(e *entry) {
	k.drop(k.entries[e.path])
	e.place = k.order.PushFront(e)
	k.entries[e.path] = e
	k.memory += e.memory()
	k.open += e.open()
	for k.order.Len() > 1 && (k.memory > k.maxMemory || k.open > k.maxOpen) {
		k.drop(k.order.Back().Value.(*entry))
	}
}

// drop takes an entry out.
func (k *cache) drop(e *entry) {
	if e == nil || e.place == nil {
		return
	}
	k.order.Remove(e.place)
	e.place = nil
	delete(k.entries, e.path)
	k.memory -= e.memory()
	k.open -= e.open()
	if e.users == 0 {
		k.discard(e)
	}
}

// lookup is a look at the tree that is under way, beside the loop. Whoever wants the same
// waits for the same fiber.
type lookup struct {
	fiber *net.Fiber
	asOf  time.Duration // when it began
	ended bool          // with one of these
	entry *entry
	err   error
}

// find is what path stands for, for s to be answered with; it has to be released.
func (d *desk) find(s *net.Stream, path []byte) (*entry, error) {
	now := d.now()
	e := d.cache.entries[string(path)]
	if e != nil && now-e.asOf < goodFor {
		d.hits++
		if now-e.asOf > freshFor && d.cache.looking[e.path] == nil {
			_, _ = d.look(s, e.path) // else whoever comes later will
		}
		if d.cache.order.Front() != e.place {
			d.cache.order.MoveToFront(e.place)
		}
		e.users++
		return e, nil
	}
	return d.findLater(s, string(path))
}

// findLater is find of what has to be waited for.
func (d *desk) findLater(s *net.Stream, path string) (*entry, error) {
	asked := d.now()
	for {
		k := d.cache.looking[path]
		if k == nil {
			var err error
			if k, err = d.look(s, path); err != nil {
				return nil, err
			}
		}
		if err := k.fiber.Wait(); err != nil {
			return nil, err
		}
		switch {
		case k.asOf < asked-goodFor, !k.ended:
			// It began too long ago, or for a connection that has ended since.
		case k.err != nil:
			return nil, k.err
		case k.entry.place != nil: // others may have taken its place already
			k.entry.users++
			return k.entry, nil
		}
	}
}

// look looks a path up, on a fiber of its own.
func (d *desk) look(s *net.Stream, path string) (*lookup, error) {
	k, c := &lookup{}, &d.cache
	place := c.next
	before := c.line[place]
	fiber, err := s.Spawn(func() error {
		// An error says that s has ended: whoever waits for k looks again.
		if before == nil || before.Wait() == nil {
			k.run(d, s, path)
		}
		delete(c.looking, path)
		if c.line[place] == k.fiber {
			c.line[place] = nil
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	k.fiber = fiber
	c.looking[path] = k
	c.line[place] = fiber
	c.next = (place + 1) % len(c.line)
	return k, nil
}

// run is what the fiber does when its turn has come.
func (k *lookup) run(d *desk, s *net.Stream, path string) {
	known := d.cache.entries[path]
	k.asOf = d.now()
	got, err := await(s, func() (looked, error) {
		e, err := d.site.tree.look(path, known)
		return looked{e, err}, nil
	})
	switch {
	case errors.Is(err, errCrowded):
		k.err = err
	case err != nil:
		return // the connection has ended
	case errors.Is(got.err, errUnchanged):
		if known.place == nil {
			return
		}
		d.checks++
		k.entry = known
	case got.err != nil:
		d.cache.drop(known)
		k.err = got.err
	default:
		d.loads++
		k.entry = got.entry
		d.cache.put(k.entry)
	}
	if k.entry != nil {
		k.entry.asOf = k.asOf
	}
	k.ended = true
}

// looked is what comes of a look at the tree.
type looked struct {
	entry *entry
	err   error
}

// Close implements io.Closer, for what comes after its connection has ended.
func (l looked) Close() error {
	if l.entry != nil {
		l.entry.free()
	}
	return nil
}

// errCrowded says that too many want to look at files at the same time.
var errCrowded = errors.New("too many files are being opened")

// await is net.Await that tries again for a while when no worker is free: other loops may
// have them all.
func await[T any](s *net.Stream, work func() (T, error)) (T, error) {
	for pause := time.Millisecond; ; pause *= 2 {
		v, err := net.Await(s, work)
		if !errors.Is(err, net.ErrNoWorker) && !errors.Is(err, net.ErrBusy) {
			return v, err
		}
		if pause > pauseMost {
			return v, errCrowded
		}
		// Not all at the same time.
		if err := s.Sleep(pause + rand.N(pause)); err != nil {
			return v, err
		}
	}
}

// pauseMost is the longest pause: they come to two or three times as much.
const pauseMost = 4 * time.Second
