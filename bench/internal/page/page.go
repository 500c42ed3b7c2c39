// Package page is the page that HTTP benchmarks ask for, down to the last byte of
// the answer.
package page

import (
	"fmt"

	"example.com/ringnet/bench/internal/payload"
)

// Type is the page's media type.
const Type = "application/octet-stream"

// Path is where the page is.
const Path = "/page"

// Body is the page: the beginning of the stream of package payload.
func Body(size int) []byte {
	b := make([]byte, size)
	payload.Fill(b)
	return b
}

// Request asks for the page on a connection that is kept.
func Request() []byte {
	return []byte("GET " + Path + " HTTP/1.1\r\nHost: bench\r\n\r\n")
}

// Response is how fasthttp answers, without a Date, which would be another one each
// second.
func Response(size int) []byte {
	head := fmt.Sprintf("HTTP/1.1 200 OK\r\nServer: fasthttp\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n", Type, size)
	return append([]byte(head), Body(size)...)
}

// NetHTTPResponse is how net/http answers, without a Date as well.
func NetHTTPResponse(size int) []byte {
	head := fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\nContent-Type: %s\r\n\r\n", size, Type)
	return append([]byte(head), Body(size)...)
}
