//go:build linux

package main

import (
	"bytes"
	"strconv"
)

// codings are the content codings that files may lie beside a file in, the best first, and
// as the last one the file as it is.
var codings = [...]struct{ name, suffix string }{{"zstd", ".zst"}, {"gzip", ".gz"}, {"", ""}}

// identity is the index of the last one.
const identity = len(codings) - 1

// choose is the index of the coding that suits an Accept-Encoding best, of those that
// there are; -1: none is acceptable (RFC 9110, 12.5.3). A nil one says nothing, and gets
// the file as it is.
func choose(accept []byte, have [len(codings)]bool) int {
	if accept == nil {
		return identity
	}
	said := [len(codings)]int{-1, -1, -1} // in thousandths
	others := -1
	for len(accept) > 0 {
		var item []byte
		item, accept, _ = bytes.Cut(accept, []byte(","))
		name, q := quality(item)
		switch {
		case bytes.EqualFold(name, []byte("zstd")):
			said[0] = q
		case bytes.EqualFold(name, []byte("gzip")), bytes.EqualFold(name, []byte("x-gzip")):
			said[1] = q
		case bytes.EqualFold(name, []byte("identity")):
			said[identity] = q
		case string(name) == "*":
			others = q
		}
	}
	for i := range said[:identity] {
		if said[i] < 0 {
			said[i] = max(0, others)
		}
	}
	if said[identity] < 0 {
		// It is acceptable unless it is ruled out, but nobody has asked for it.
		said[identity] = 1
		if others == 0 {
			said[identity] = 0
		}
	}
	best := -1
	for i, q := range said {
		if have[i] && q > 0 && (best < 0 || q > said[best]) {
			best = i
		}
	}
	return best
}

// quality takes an item of a list apart: a name, and its weight in thousandths. A weight
// that is none counts as 0.
func quality(item []byte) (name []byte, q int) {
	name, params, weighed := bytes.Cut(item, []byte(";"))
	name = bytes.TrimSpace(name)
	if !weighed {
		return name, 1000
	}
	key, value, _ := bytes.Cut(params, []byte("="))
	value = bytes.TrimSpace(value)
	if !bytes.EqualFold(bytes.TrimSpace(key), []byte("q")) || len(value) == 0 || len(value) > 5 {
		return name, 0
	}
	f, err := strconv.ParseFloat(string(value), 64)
	if err != nil || !(f >= 0 && f <= 1) {
		return name, 0
	}
	return name, int(f*1000 + 0.5)
}
