//go:build linux

package net

import "testing"

// What an operation was named with comes back from its user data, and what does
// not fit its field does not spill into another.
func FuzzUserData(f *testing.F) {
	f.Add(uint8(kindRecv), uint32(1), uint32(0))
	f.Add(uint8(255), uint32(generationMask), uint32(1<<32-1))
	f.Add(uint8(0), uint32(generationMask+1), uint32(1<<31))
	f.Fuzz(func(t *testing.T, k uint8, gen, slot uint32) {
		u := userData(kind(k), gen, slot)
		k2, gen2, slot2 := splitUserData(u)
		if k2 != kind(k) || gen2 != gen&generationMask || slot2 != slot {
			t.Errorf("%d, %#x, %#x came back as %d, %#x, %#x", k, gen, slot, k2, gen2, slot2)
		}
		if again := userData(k2, gen2, slot2); again != u {
			t.Errorf("%#x became %#x", u, again)
		}
	})
}

// A table is a map from names to connections, in which a name is never given
// twice, but for generations that wrap.
func FuzzTable(f *testing.F) {
	f.Add(uint32(0), []byte{0, 0, 0, 1, 0, 0, 1, 2, 0, 3, 1, 1, 1})
	f.Add(uint32(generationMask-2), []byte{0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 0, 2, 9, 200, 77})
	f.Fuzz(func(t *testing.T, gen uint32, ops []byte) {
		type name struct{ gen, slot uint32 }
		var tb table
		open := map[name]*Conn{}
		var order []*Conn
		gone := map[name]bool{}
		for _, op := range ops {
			switch op % 4 {
			case 0, 1: // insert
				if n := len(tb.slots); n < len(open)+1 && op&4 != 0 {
					tb.slots = append(tb.slots, slot{gen: gen & generationMask}) // one that has seen much
					tb.free = append(tb.free, uint32(n))
				}
				c := &Conn{}
				tb.insert(c)
				n := name{c.gen, c.slot}
				if open[n] != nil || gone[n] || c.gen > generationMask {
					t.Fatalf("the name %+v is given twice", n)
				}
				open[n] = c
				order = append(order, c)
			case 2: // remove
				if len(order) == 0 {
					continue
				}
				i := int(op/4) % len(order)
				c := order[i]
				order = append(order[:i], order[i+1:]...)
				tb.remove(c)
				delete(open, name{c.gen, c.slot})
				gone[name{c.gen, c.slot}] = true
			case 3: // names that were never given
				for _, c := range order {
					if tb.find(c.gen+1, c.slot) != nil || tb.find(c.gen-1, c.slot) != nil || tb.find(c.gen, c.slot+uint32(len(tb.slots))) != nil {
						t.Fatal("a connection is found under another name")
					}
				}
			}
			if tb.used != len(open) || len(tb.slots) != tb.used+len(tb.free) {
				t.Fatalf("%d used and %d free of %d slots, want %d used", tb.used, len(tb.free), len(tb.slots), len(open))
			}
			for n, c := range open {
				if tb.find(n.gen, n.slot) != c {
					t.Fatalf("%+v is not found", n)
				}
			}
			for n := range gone {
				if tb.find(n.gen, n.slot) != nil {
					t.Fatalf("%+v is found although it has gone", n)
				}
			}
			seen := 0
			tb.each(func(c *Conn) { seen++ })
			if seen != len(open) {
				t.Fatalf("%d of %d connections are seen", seen, len(open))
			}
		}
	})
}
