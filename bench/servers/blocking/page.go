package main

import (
	"github.com/valyala/fasthttp"

	"example.com/ringnet/bench/internal/control"
	"example.com/ringnet/bench/internal/page"
)

// newPages makes a fasthttp server with one page.
func newPages(size int) *fasthttp.Server {
	body := page.Body(size)
	return &fasthttp.Server{
		NoDefaultDate: true, // the answer is compared byte by byte
		Handler: func(c *fasthttp.RequestCtx) {
			if string(c.Path()) != page.Path {
				c.SetStatusCode(fasthttp.StatusNotFound)
				return
			}
			c.SetContentType(page.Type)
			c.SetBody(body)
		},
	}
}

// pagesOnStd serves it in fasthttp's own way, by its pool of goroutines.
func pagesOnStd(addr string, s *fasthttp.Server) {
	l := listen(addr)
	go func() { control.Fail(s.Serve(l)) }()
	control.Serve(nil, local(l))
}
