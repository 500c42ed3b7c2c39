//go:build linux

package net

import (
	"reflect"
	"strings"
	"testing"
	"time"
)

// Any options give a set in which every rule holds, or an error that names one of
// them.
func FuzzOptions(f *testing.F) {
	add := func(o Options) {
		f.Add(o.Loops, o.Backlog, o.EntryCount, o.CompletionCount, o.RecvBufBytes, o.RecvBufs, o.BulkBufBytes, o.BulkBufs,
			o.HighWater, o.LowWater, o.MaxBuffered, o.MaxUnconsumed, o.MaxLoopBytes, o.MaxConns, byte(o.Placement), int64(o.CloseTimeout), int64(o.Spin))
	}
	add(Options{})
	add(Options{HighWater: 1})
	add(Options{HighWater: 3, LowWater: 3, MaxBuffered: 3})
	add(Options{HighWater: 1 << 40, MaxBuffered: 1 << 40})
	add(Options{LowWater: 1 << 20})
	add(Options{EntryCount: 32768})
	add(Options{EntryCount: 32768, CompletionCount: 32767})
	add(Options{EntryCount: 1, CompletionCount: 2, RecvBufBytes: 16, RecvBufs: 1, BulkBufBytes: 4096, BulkBufs: 1})
	add(Options{Loops: -1, Spin: -1, CloseTimeout: -1})
	add(Options{Spin: time.Millisecond + 1})
	add(Options{MaxLoopBytes: 1 << 16, MaxConns: 1, Placement: RoundRobin})
	add(Options{MaxConns: -1, Placement: 3})
	f.Fuzz(func(t *testing.T, loops, backlog, entries, completions, recvBytes, recvBufs, bulkBytes, bulkBufs, high, low, buffered, unconsumed, loopBytes, conns int, placement byte, timeout, spin int64) {
		given := Options{Loops: loops, Backlog: backlog, EntryCount: entries, CompletionCount: completions, RecvBufBytes: recvBytes, RecvBufs: recvBufs,
			BulkBufBytes: bulkBytes, BulkBufs: bulkBufs, HighWater: high, LowWater: low, MaxBuffered: buffered, MaxUnconsumed: unconsumed,
			MaxLoopBytes: loopBytes, MaxConns: conns, Placement: Placement(placement), CloseTimeout: time.Duration(timeout), Spin: time.Duration(spin)}
		o, err := given.check()
		fields := []struct {
			name         string
			given, value int
			min, max     int
		}{
			{"Loops", loops, o.Loops, 1, 1024},
			{"Backlog", backlog, o.Backlog, 1, 1 << 20},
			{"EntryCount", entries, o.EntryCount, 1, 32768},
			{"CompletionCount", completions, o.CompletionCount, 2, 65536},
			{"RecvBufBytes", recvBytes, o.RecvBufBytes, 16, 1 << 20},
			{"RecvBufs", recvBufs, o.RecvBufs, 1, 32768},
			{"BulkBufBytes", bulkBytes, o.BulkBufBytes, 4096, 16 << 20},
			{"BulkBufs", bulkBufs, o.BulkBufs, 1, 32768},
			{"HighWater", high, o.HighWater, 1, 1 << 40},
			{"LowWater", low, o.LowWater, 1, 1 << 40},
			{"MaxBuffered", buffered, o.MaxBuffered, 1, 1 << 40},
			{"MaxUnconsumed", unconsumed, o.MaxUnconsumed, 1, 1 << 29},
			{"MaxLoopBytes", loopBytes, o.MaxLoopBytes, 1 << 16, 1 << 42},
			{"Spin", int(spin), int(o.Spin), -1 << 63, int(time.Millisecond)},
			{"CloseTimeout", int(timeout), int(o.CloseTimeout), -1 << 63, 1<<63 - 1},
		}
		if err != nil {
			if conns < 0 && strings.Contains(err.Error(), "option MaxConns is ") || placement > 2 && strings.Contains(err.Error(), "option Placement is ") {
				return
			}
			for _, f := range fields {
				if strings.Contains(err.Error(), "ringnet: option "+f.name+" is ") && strings.Contains(err.Error(), "must") {
					return
				}
			}
			t.Fatalf("the error names no option: %v", err)
		}
		for _, f := range fields {
			if f.value < f.min || f.value > f.max || f.value == 0 {
				t.Errorf("%s is %d: it must be from %d to %d", f.name, f.value, f.min, f.max)
			}
			if f.given != 0 && f.value != f.given {
				t.Errorf("%s was %d and became %d", f.name, f.given, f.value)
			}
		}
		if o.LowWater > o.HighWater || o.HighWater > o.MaxBuffered || o.EntryCount > o.CompletionCount || o.MaxConns < 0 || o.Placement > LeastConnections || o.Logger == nil {
			t.Errorf("%+v", o)
		}
		if again, err := o.check(); err != nil || !reflect.DeepEqual(again, o) {
			t.Errorf("checked again, %+v became %+v: %v", o, again, err)
		}
	})
}
