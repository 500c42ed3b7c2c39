//go:build linux

package main

import (
	"bytes"
	"math"
)

// span is a range of bytes of a representation.
type span struct{ from, n int64 }

// rangesMost is how many ranges one request may ask for. With more, or where they come to
// more than there is, the whole representation is sent, as RFC 9110, 14.2 allows.
const rangesMost = 64

// spans parses the value of Range for a representation of size bytes. ok is false where
// the field is to be ignored: another unit, or not what RFC 9110, 14.1.1 defines. No spans
// mean that none can be satisfied (416).
func spans(field []byte, size int64) (all []span, ok bool) {
	unit, set, found := bytes.Cut(field, []byte("="))
	if !found || !bytes.EqualFold(bytes.TrimSpace(unit), []byte("bytes")) {
		return nil, false
	}
	specs, room, over := 0, size, false
	for len(set) > 0 {
		var spec []byte
		spec, set, _ = bytes.Cut(set, []byte(","))
		if spec = bytes.Trim(spec, " \t"); len(spec) == 0 {
			continue // lists may have empty elements (5.6.1.2)
		}
		if specs++; specs > rangesMost {
			return nil, false
		}
		first, last, dash := bytes.Cut(spec, []byte("-"))
		if !dash {
			return nil, false
		}
		from, hasFrom, okFrom := position(first)
		to, hasTo, okTo := position(last)
		var s span
		switch {
		case !okFrom || !okTo || !hasFrom && !hasTo:
			return nil, false
		case !hasFrom: // the last so many bytes
			if to == 0 {
				continue
			}
			if size == 0 {
				return nil, false // all of nothing: there is no way to say that but 200
			}
			s.n = min(to, size)
			s.from = size - s.n
		case hasTo && to < from:
			return nil, false
		case from >= size:
			continue
		default:
			s = span{from, size - from}
			if hasTo {
				s.n = min(s.n, to-from+1)
			}
		}
		if s.n > room {
			over = true
		}
		room = max(0, room-s.n)
		all = append(all, s)
	}
	if specs == 0 || len(all) > 1 && over {
		return nil, false
	}
	return all, true
}

// position parses a number of a range; too large ones are the largest.
func position(digits []byte) (n int64, has, ok bool) {
	for _, b := range digits {
		if b < '0' || b > '9' {
			return 0, false, false
		}
		if n > (math.MaxInt64-9)/10 {
			n = math.MaxInt64/10 - 1
		}
		n = n*10 + int64(b-'0')
	}
	return n, len(digits) > 0, true
}
