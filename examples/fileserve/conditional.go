//go:build linux

package main

import (
	"bytes"
	"time"

	"github.com/valyala/fasthttp"
)

// precondition evaluates the conditions of a request for a representation that there is,
// in the order of RFC 9110, 13.2.2. It returns the status to answer with instead: 304 or
// 412; 0: go on.
func (r *request) precondition(v *validators) int {
	if r.ifMatch != nil {
		if !matches(r.ifMatch, v.etag, true) {
			return fasthttp.StatusPreconditionFailed
		}
	} else if since, ok := date(r.ifUnmodifiedSince); ok && v.modified.After(since) {
		return fasthttp.StatusPreconditionFailed
	}
	if r.ifNoneMatch != nil {
		if matches(r.ifNoneMatch, v.etag, false) {
			return fasthttp.StatusNotModified
		}
	} else if since, ok := date(r.ifModifiedSince); ok && !v.modified.After(since) {
		return fasthttp.StatusNotModified
	}
	return 0
}

// wantsRanges reports whether the request's ranges are to be answered: whether it has
// some, and If-Range, where there is one, names the representation that there is
// (RFC 9110, 13.1.5 and 14.2).
func (r *request) wantsRanges(v *validators) bool {
	if r.ranges == nil || r.head {
		return false
	}
	if r.ifRange == nil {
		return true
	}
	given := bytes.TrimSpace(r.ifRange)
	if len(given) > 0 && given[0] == '"' || bytes.HasPrefix(given, []byte("W/")) {
		return v.strong && string(given) == v.etag
	}
	at, ok := date(given)
	return ok && v.strong && at.Equal(v.modified)
}

// validators are what tells one state of a representation from another.
type validators struct {
	etag     string    // with its quotes
	strong   bool      // it is, and so is the date: the file has not been changed lately
	modified time.Time // to the second
}

// date parses the date of a field; one that is none is as if the field were missing.
func date(field []byte) (time.Time, bool) {
	if len(field) == 0 {
		return time.Time{}, false
	}
	t, err := fasthttp.ParseHTTPDate(bytes.TrimSpace(field))
	return t, err == nil
}

// matches reports whether a list of entity tags has etag in it, or is *. Strong comparison
// (RFC 9110, 8.8.3.2) never matches a weak tag. A list with an error in it is good up to
// there.
func matches(list []byte, etag string, strong bool) bool {
	for {
		list = bytes.TrimLeft(list, " \t,")
		if len(list) == 0 {
			return false
		}
		if list[0] == '*' {
			return true
		}
		weak := bytes.HasPrefix(list, []byte("W/"))
		if weak {
			list = list[2:]
		}
		if len(list) == 0 || list[0] != '"' {
			return false
		}
		end := bytes.IndexByte(list[1:], '"')
		if end < 0 {
			return false
		}
		tag := list[:end+2]
		list = list[end+2:]
		ours, oursWeak := etag, false
		if len(ours) > 2 && ours[0] == 'W' {
			ours, oursWeak = ours[2:], true
		}
		if string(tag) == ours && !(strong && (weak || oursWeak)) {
			return true
		}
	}
}
