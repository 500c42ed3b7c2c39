// Command files serves the files of a directory over HTTP by what Go programs usually
// do so with, on Go's net: net/http's FileServer, or fasthttp's FS.
package main

import (
	"flag"
	"fmt"
	"net"
	"net/http"

	"github.com/valyala/fasthttp"

	"example.com/ringnet/bench/internal/control"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:0", "address to listen on")
	on := flag.String("on", "net/http", "what serves: net/http or fasthttp")
	root := flag.String("root", ".", "directory of the files")
	flag.Parse()

	l, err := net.Listen("tcp", *addr)
	if err != nil {
		control.Fail(err)
	}
	switch *on {
	case "net/http":
		go func() { control.Fail(http.Serve(l, http.FileServer(http.Dir(*root)))) }()
	case "fasthttp":
		// Ranges and an index, as net/http and nginx have them; the rest is its defaults.
		fs := &fasthttp.FS{Root: *root, IndexNames: []string{"index.html"}, AcceptByteRange: true}
		s := &fasthttp.Server{Handler: fs.NewRequestHandler()}
		go func() { control.Fail(s.Serve(l)) }()
	default:
		control.Fail(fmt.Errorf("-on %q: use net/http or fasthttp", *on))
	}
	control.Serve(nil, l.Addr())
}
