//go:build linux

package main

import (
	"errors"
	"io/fs"
	"mime/multipart"
	"net/url"
	"strconv"
	"time"

	"github.com/valyala/fasthttp"

	"golang.org/x/sys/unix"
)

// answer answers the request. An error ends the connection.
func (c *conn) answer() error {
	r := c.r
	c.sent = 0
	if !r.head && !r.h.IsGet() {
		return c.say(fasthttp.StatusMethodNotAllowed, "Allow: GET, HEAD\r\n")
	}
	if p := r.h.Protocol(); len(p) < 7 || string(p[:7]) != "HTTP/1." {
		r.close = true
		return c.say(fasthttp.StatusHTTPVersionNotSupported, "")
	}
	path, query, status := target(r.h.RequestURI())
	if status != 0 {
		return c.say(status, "")
	}
	for {
		e, err := c.desk.find(c.s, path)
		if err != nil {
			return c.fail(err)
		}
		if e.redirect {
			c.desk.cache.release(e)
			to := url.URL{Path: string(path) + "/"}
			return c.say(fasthttp.StatusMovedPermanently, "Location: "+to.EscapedPath()+string(query)+"\r\n")
		}
		rep := e.suits(r.acceptEncoding)
		if rep != nil && rep.shrunk() {
			// What it was must not be promised. Look again, before that is due.
			c.desk.cache.drop(e)
			c.desk.cache.release(e)
			continue
		}
		err = c.represent(rep)
		c.desk.cache.release(e)
		return err
	}
}

// suits is the representation that suits an Accept-Encoding best; nil: none does.
func (e *entry) suits(accept []byte) *representation {
	if accept == nil {
		return e.reps[identity]
	}
	var have [len(codings)]bool
	for i, p := range e.reps {
		have[i] = p != nil
	}
	if i := choose(accept, have); i >= 0 {
		return e.reps[i]
	}
	return nil
}

// represent answers with a representation, as far as the request's conditions go.
func (c *conn) represent(rep *representation) error {
	if rep == nil {
		return c.say(fasthttp.StatusNotAcceptable, "Vary: Accept-Encoding\r\n")
	}
	switch status := c.r.precondition(&rep.validators); status {
	case fasthttp.StatusNotModified:
		return c.head(status, rep.same, "")
	case fasthttp.StatusPreconditionFailed:
		return c.say(status, rep.same)
	}
	if c.r.wantsRanges(&rep.validators) {
		if all, ok := spans(c.r.ranges, rep.size); ok {
			return c.ranges(rep, all)
		}
	}
	return c.whole(rep)
}

// whole answers with all of a representation.
func (c *conn) whole(rep *representation) error {
	c.status = fasthttp.StatusOK
	if rep.image != nil && !c.r.close && c.r.h.IsHTTP11() {
		if b := rep.whole(c.desk); b != nil {
			if c.r.head {
				b = b[:rep.body-rep.at]
			} else {
				c.sent = rep.size
			}
			return c.write(rep, b)
		}
	}
	if err := c.head(fasthttp.StatusOK, rep.content, length(rep.size)); err != nil || c.r.head {
		return err
	}
	return c.send(rep, span{0, rep.size})
}

// ranges answers with parts of a representation (RFC 9110, 15.3.7 and 15.5.17).
func (c *conn) ranges(rep *representation, all []span) error {
	switch len(all) {
	case 0:
		return c.say(fasthttp.StatusRequestedRangeNotSatisfiable, "Content-Range: bytes */"+strconv.FormatInt(rep.size, 10)+"\r\n"+rep.same)
	case 1:
		if err := c.head(fasthttp.StatusPartialContent, rep.content, length(all[0].n)+contentRange(all[0], rep.size)); err != nil {
			return err
		}
		return c.send(rep, all[0])
	}
	boundary := multipart.NewWriter(nil).Boundary()
	between := make([]string, len(all))
	total := int64(0)
	for i, s := range all {
		between[i] = "\r\n--" + boundary + "\r\nContent-Type: " + rep.mediaType + "\r\n" + contentRange(s, rep.size) + "\r\n"
		total += int64(len(between[i])) + s.n
	}
	end := "\r\n--" + boundary + "--\r\n"
	total += int64(len(end))
	if err := c.head(fasthttp.StatusPartialContent, "Content-Type: multipart/byteranges; boundary="+boundary+"\r\n"+rep.fields, length(total)); err != nil {
		return err
	}
	for i, s := range all {
		if err := c.writeString(between[i]); err != nil {
			return err
		}
		if err := c.send(rep, s); err != nil {
			return err
		}
	}
	return c.writeString(end)
}

func length(n int64) string { return "Content-Length: " + strconv.FormatInt(n, 10) + "\r\n" }

func contentRange(s span, size int64) string {
	b := append(make([]byte, 0, 80), "Content-Range: bytes "...)
	b = append(strconv.AppendInt(b, s.from, 10), '-')
	b = append(strconv.AppendInt(b, s.from+s.n-1, 10), '/')
	return string(append(strconv.AppendInt(b, size, 10), "\r\n"...))
}

// fail answers what looking for a file has come to.
func (c *conn) fail(err error) error {
	switch {
	case errors.Is(err, errCrowded), errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE), errors.Is(err, unix.ENOMEM):
		return c.say(fasthttp.StatusServiceUnavailable, "Retry-After: 1\r\n")
	case errors.Is(err, fs.ErrPermission):
		return c.say(fasthttp.StatusForbidden, "")
	case isNowhere(err):
		return c.say(fasthttp.StatusNotFound, "")
	}
	return c.say(fasthttp.StatusInternalServerError, "")
}

// say answers with a status, and its name as content.
func (c *conn) say(status int, fields string) error {
	text := strconv.Itoa(status) + " " + fasthttp.StatusMessage(status) + "\n"
	err := c.head(status, "Content-Type: text/plain; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\n"+fields, length(int64(len(text))))
	if err != nil || c.r.head {
		return err
	}
	c.sent = int64(len(text))
	return c.writeString(text)
}

// head writes the head of an answer.
func (c *conn) head(status int, fields, more string) error {
	c.status = status
	c.desk.now()
	b := append(c.r.scratch[:0], "HTTP/1.1 "...)
	b = strconv.AppendInt(b, int64(status), 10)
	b = append(append(b, ' '), fasthttp.StatusMessage(status)...)
	b = append(append(b, "\r\nDate: "...), c.desk.date[:]...)
	b = append(append(append(b, "\r\n"...), fields...), more...)
	switch {
	case c.r.close:
		b = append(b, "Connection: close\r\n"...)
	case !c.r.h.IsHTTP11():
		b = append(b, "Connection: keep-alive\r\n"...)
	}
	b = append(b, "\r\n"...)
	c.r.scratch = b
	_, err := c.s.Write(b)
	return err
}

// writeString writes something short.
func (c *conn) writeString(text string) error {
	c.r.scratch = append(c.r.scratch[:0], text...)
	_, err := c.s.Write(c.r.scratch)
	return err
}

// write writes a part of rep's image.
func (c *conn) write(rep *representation, b []byte) error {
	rep.writers++
	_, err := c.s.Write(b)
	rep.writers--
	return err
}

// send sends a part of a representation.
func (c *conn) send(rep *representation, s span) error {
	if rep.file == nil {
		c.sent += s.n
		return c.write(rep, rep.image[int64(rep.body)+s.from:][:s.n])
	}
	if s.n == 0 {
		return nil
	}
	if c.site.stallTimeout > 0 && c.site.minRate > 0 {
		limit := c.site.stallTimeout + time.Duration(min(s.n/c.site.minRate, foreverSeconds))*time.Second
		if err := c.s.SetWriteDeadline(time.Now().Add(limit)); err != nil {
			return err
		}
		defer func() { _ = c.s.SetWriteDeadline(time.Time{}) }() // refused only at its end
	}
	n, err := c.s.SendFile(rep.file, s.from, s.n)
	c.sent += n
	if err != nil {
		// Its length was promised: nothing but the end can tell that it is not kept.
		c.s.Conn().Abort(err)
	}
	return err
}

// foreverSeconds is as good as for ever.
const foreverSeconds = 100 * 365 * 24 * 3600
