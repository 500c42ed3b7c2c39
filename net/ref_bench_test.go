//go:build linux

package net

import (
	"fmt"
	stdnet "net"
	"runtime"
	"sync/atomic"
	"testing"
)

// opened gives the Ref of each connection that opens.
type opened struct {
	Events
	refs chan Ref
}

func (h opened) OnOpen(c *Conn) { h.refs <- c.Ref() }

// receivers connects n clients that count the bytes that they get.
func receivers(b *testing.B, srv *server, refs chan Ref, n int, got *atomic.Int64) (all []Ref) {
	b.Helper()
	for range n {
		c, err := stdnet.Dial("tcp", srv.addr().String())
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = c.Close() })
		all = append(all, await(b, refs, "a connection to open"))
		go func() {
			p := make([]byte, 16<<10)
			for {
				n, err := c.Read(p)
				if err != nil {
					return
				}
				got.Add(int64(n))
			}
		}()
	}
	return all
}

// Goroutines send to one connection, a window of messages at a time.
func BenchmarkRefSend(b *testing.B) {
	const window = 1024
	for _, posters := range []int{1, 4} {
		b.Run(fmt.Sprintf("posters=%d", posters), func(b *testing.B) {
			h := opened{refs: make(chan Ref, 1)}
			srv := serveHandler(b, Options{Loops: 1}, h)
			msg := payload(1, 64)
			var sent, got atomic.Int64
			ref := receivers(b, srv, h.refs, 1, &got)[0]
			b.ReportAllocs()
			b.ResetTimer()
			if err := crowd(posters, func(int) error {
				for sent.Add(1) <= int64(b.N) {
					for sent.Load()-got.Load()/int64(len(msg)) > window {
						runtime.Gosched()
					}
					if err := ref.Send(msg); err != nil {
						return err
					}
				}
				return nil
			}); err != nil {
				b.Fatal(err)
			}
			for got.Load() < int64(b.N*len(msg)) {
				runtime.Gosched()
			}
			b.StopTimer()
			b.ReportMetric(float64(srv.Stats().Wakeups)/float64(b.N), "wakeups/op")
		})
	}
}

// One message to a thousand connections at a time; the next when all have it.
func BenchmarkBroadcast(b *testing.B) {
	const conns = 1000
	h := opened{refs: make(chan Ref, conns)}
	srv := serveHandler(b, Options{Loops: 1}, h)
	m := NewMessage(payload(1, 64))
	var got atomic.Int64
	refs := receivers(b, srv, h.refs, conns, &got)
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		if n, err := srv.Broadcast(refs, m); err != nil || n != conns {
			b.Fatal(n, err)
		}
		for got.Load() < int64((i+1)*conns*m.Len()) {
			runtime.Gosched()
		}
	}
	b.StopTimer()
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*conns), "ns/delivery")
}
