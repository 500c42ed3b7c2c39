//go:build linux

package main

import (
	"bytes"
	"net/url"
	"strings"

	"github.com/valyala/fasthttp"
)

// request is a request's header, and what of it matters here.
type request struct {
	h fasthttp.RequestHeader
	fields
	scratch []byte // for the head of the answer

	head    bool // HEAD
	close   bool // the connection ends with the answer
	content int  // bytes of the request's content: 0: none; -1: it has to end to be known
}

// fields are those header fields that an answer depends on. Their bytes are those of the
// header; a nil one is missing, and an empty one is not.
type fields struct {
	acceptEncoding, ranges, ifRange    []byte
	ifMatch, ifNoneMatch               []byte
	ifModifiedSince, ifUnmodifiedSince []byte
}

// look finds out what of the header matters.
func (r *request) look() {
	r.fields = fields{}
	for key, value := range r.h.All() {
		r.take(key, value)
	}
	r.head = r.h.IsHead()
	r.close = r.h.ConnectionClose()
	r.content = max(-1, r.h.ContentLength())
	if r.h.ContentLength() == -2 {
		r.content = 0 // it says nothing of any
	}
}

// take takes a field.
func (r *request) take(key, value []byte) {
	switch string(key) {
	case fasthttp.HeaderAcceptEncoding:
		also(&r.acceptEncoding, value)
	case fasthttp.HeaderRange:
		also(&r.ranges, value)
	case fasthttp.HeaderIfRange:
		also(&r.ifRange, value)
	case fasthttp.HeaderIfMatch:
		also(&r.ifMatch, value)
	case fasthttp.HeaderIfNoneMatch:
		also(&r.ifNoneMatch, value)
	case fasthttp.HeaderIfModifiedSince:
		also(&r.ifModifiedSince, value)
	case fasthttp.HeaderIfUnmodifiedSince:
		also(&r.ifUnmodifiedSince, value)
	}
}

// also adds a field's value, which may come in several lines (RFC 9110, 5.3).
func also(to *[]byte, value []byte) {
	switch {
	case *to == nil && value == nil:
		*to = []byte{}
	case *to == nil:
		*to = value
	default:
		*to = append(append(bytes.Clone(*to), ", "...), value...)
	}
}

// target takes a request's target apart: which file it is, as a path from the root, with
// a slash at its beginning; and its query, with the question mark.
//
// Names are taken as they are: there are no dots to be followed, no doubled slashes to be
// merged, and no slash or backslash can be hidden in an escape. What is not such a name is
// nowhere (status 404), or no target at all (400).
func target(uri []byte) (path, query []byte, status int) {
	if len(uri) > 0 && uri[0] != '/' {
		// http://host/path, as to a proxy: whatever the host, it is us.
		_, rest, ok := bytes.Cut(uri, []byte("://"))
		if !ok {
			return nil, nil, fasthttp.StatusBadRequest
		}
		at := bytes.IndexAny(rest, "/?#")
		if at < 0 || rest[at] != '/' {
			return []byte("/"), nil, 0
		}
		uri = rest[at:]
	}
	path = uri
	escaped := false
	for i, b := range uri {
		if b == '%' {
			escaped = true
		} else if b == '?' || b == '#' {
			path, query = uri[:i], uri[i:]
			break
		}
	}
	if at := bytes.IndexByte(query, '#'); at >= 0 {
		query = query[:at]
	}
	if escaped {
		plain, err := url.PathUnescape(string(path))
		if err != nil {
			return nil, nil, fasthttp.StatusBadRequest
		}
		if strings.Count(plain, "/") != bytes.Count(path, slash) {
			return nil, nil, fasthttp.StatusNotFound
		}
		path = []byte(plain)
	}
	if !served(path) {
		return nil, nil, fasthttp.StatusNotFound
	}
	return path, query, 0
}

var slash = []byte("/")

// served reports whether a path could be that of a file that is served: whether it begins
// with a slash, and no element of it is empty (but the last, which stands for a directory)
// or begins with a dot, or has a byte that is not for names.
func served(path []byte) bool {
	if len(path) == 0 || path[0] != '/' {
		return false
	}
	before := byte(0)
	for _, b := range path {
		if before == '/' && (b == '/' || b == '.') || b == '\\' || b < ' ' || b == 0x7f {
			return false
		}
		before = b
	}
	return true
}
