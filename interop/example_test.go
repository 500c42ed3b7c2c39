//go:build linux

package interop

import (
	"fmt"
	"io"
	"log"
	"net/http"

	"example.com/ringnet/net"
	"github.com/valyala/fasthttp"
)

// A server of fasthttp on fibers: its ServeConn is an ordinary function that reads and
// writes, and each connection's runs on a loop's thread.
func Example_fasthttp() {
	web := &fasthttp.Server{Handler: func(c *fasthttp.RequestCtx) {
		_, _ = fmt.Fprintf(c, "hello, %s", c.QueryArgs().Peek("name"))
	}}
	srv := &net.Server{Handler: net.Blocking(func(s *net.Stream) error { return web.ServeConn(s) })}
	if err := srv.Start("127.0.0.1:0"); err != nil {
		log.Fatal(err)
	}
	defer srv.Close()

	answer, err := http.Get("http://" + srv.Addrs()[0].String() + "/?name=ringnet")
	if err != nil {
		log.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", body)
	// Output: hello, ringnet
}
