//go:build linux

package main

import (
	"fmt"
	"time"

	"github.com/valyala/fasthttp"
	"golang.org/x/sys/unix"

	"example.com/ringnet/net"
)

// representation is a file, as it is or in one coding, ready to be sent: in memory with the
// head of the plainest answer before it, or open.
type representation struct {
	validators
	size int64
	vary bool

	file *net.File // nil: it is in memory
	fd   int       // of file

	// The whole answer to a GET, from at on: the head and the file. The date is written
	// over when it is over, as long as nobody sends from it.
	image   []byte
	at      int
	body    int           // where the file begins
	dateAt  time.Duration // of the date that is in it, see desk.date
	writers int           // that wait for a part of it to be sent

	mediaType string
	content   string // the fields of an answer with content, but for its length
	fields    string // the same without the type
	same      string // those of a 304
}

const (
	statusOK = "HTTP/1.1 200 OK\r\nDate: "
	// headRoom is what an image has for its head.
	headRoom = 512
)

// describe makes the fields of answers.
func (r *representation) describe(mediaType, coding string, vary bool, s stamp, rests bool) {
	modified := time.Unix(s.mtime.Unix())
	r.modified, r.strong, r.vary = modified.Truncate(time.Second), rests, vary
	r.etag = fmt.Sprintf(`"%x-%x"`, modified.UnixNano(), s.size)
	if coding != "" {
		r.etag = fmt.Sprintf(`"%x-%x-%s"`, modified.UnixNano(), s.size, coding)
	}
	if !rests {
		r.etag = "W/" + r.etag
	}
	r.same = "ETag: " + r.etag + "\r\n"
	if vary {
		r.same += "Vary: Accept-Encoding\r\n"
	}
	r.fields = fmt.Sprintf("Last-Modified: %s\r\nAccept-Ranges: bytes\r\nX-Content-Type-Options: nosniff\r\n", fasthttp.AppendHTTPDate(nil, modified))
	if coding != "" {
		r.fields += "Content-Encoding: " + coding + "\r\n"
	}
	r.fields += r.same
	r.mediaType, r.content = mediaType, "Content-Type: "+mediaType+"\r\n"+r.fields
	if r.image == nil {
		return
	}
	head := fmt.Appendf(nil, "%s%*s\r\nContent-Length: %d\r\n%s\r\n", statusOK, dateBytes, "", r.size, r.content)
	r.at, r.body = headRoom-len(head), headRoom
	copy(r.image[r.at:], head)
}

// whole is the answer to a GET, with the date of d; nil: it cannot be had from memory now.
func (r *representation) whole(d *desk) []byte {
	if r.dateAt != d.dateAt {
		if r.writers > 0 {
			return nil
		}
		copy(r.image[r.at+len(statusOK):], d.date[:])
		r.dateAt = d.dateAt
	}
	return r.image[r.at:]
}

// shrunk reports that the file is no longer as long as it was.
func (r *representation) shrunk() bool {
	var st unix.Stat_t
	return r.file != nil && (unix.Fstat(r.fd, &st) != nil || st.Size < r.size)
}

// memory is what it takes.
func (r *representation) memory() int64 { return int64(len(r.image)) + 512 }
