//go:build linux

package net_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	stdnet "net"
	"net/http"
	"strings"

	"example.com/ringnet/net"
)

// net/http on an address of its own, on the same server as a handler on loops: its
// connections are std's from the moment they are accepted.
func ExampleHandOverListener() {
	web := &net.HandOverListener{}
	srv := &net.Server{
		Handler:  counter{},
		Handlers: map[string]net.Handler{"127.0.0.1:0": web},
		Options:  net.Options{Loops: 1, Logger: slog.New(slog.DiscardHandler)},
	}
	if err := srv.Start("unix:@ringnet-example", "127.0.0.1:0"); err != nil {
		fmt.Println(err)
		return
	}
	site := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "hello from net/http, by %s\n", r.Proto)
	})}
	go site.Serve(web) // ServeTLS, or another server that takes a net.Listener

	resp, err := http.Get("http://" + web.Addr().String())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	fmt.Print(string(b))

	// First who feeds it, then the listener with who accepts from it.
	_ = srv.Shutdown(context.Background())
	_ = site.Shutdown(context.Background())
	// Output:
	// hello from net/http, by HTTP/1.1
}

// counter is a binary protocol on the loops: "RN1", and then a byte for each number that
// the peer wants to count up to.
type counter struct{ net.Events }

func (counter) OnData(c *net.Conn, b []byte) int {
	for _, n := range []byte(strings.TrimPrefix(string(b), "RN1")) {
		var line strings.Builder
		for i := range n {
			fmt.Fprintf(&line, "%d ", i+1)
		}
		_, _ = c.Write([]byte(line.String() + "\n"))
	}
	return len(b)
}

// A binary protocol and net/http on one port: the first bytes of each connection tell
// which it is.
func ExampleSniff() {
	web := &net.HandOverListener{}
	srv := &net.Server{
		Handler: &net.Sniff{Rules: []net.SniffRule{
			{Match: net.SniffPrefix("RN1"), Handler: counter{}},
			{Match: net.SniffHTTP1, Handler: web},
			// {Match: net.SniffTLS, Handler: secure}, and tls.NewListener(secure, config)
			// {Match: net.SniffHTTP2, Handler: calls}, and grpcServer.Serve(calls)
		}},
		Options: net.Options{Loops: 1, Logger: slog.New(slog.DiscardHandler)},
	}
	if err := srv.Start("127.0.0.1:0"); err != nil {
		fmt.Println(err)
		return
	}
	go http.Serve(web, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s\n", r.Method, r.URL.Path)
	}))
	addr := srv.Addrs()[0].String()

	for _, hello := range []string{"RN1\x03", "GET /index HTTP/1.0\r\n\r\n"} {
		c, err := stdnet.Dial("tcp", addr)
		if err != nil {
			fmt.Println(err)
			return
		}
		_, _ = c.Write([]byte(hello))
		last := ""
		for lines := bufio.NewScanner(c); lines.Scan(); {
			if last = lines.Text(); hello[0] == 'R' {
				break
			}
		}
		fmt.Println(strings.TrimSpace(last))
		_ = c.Close()
	}
	_ = srv.Close()
	_ = web.Close()
	// Output:
	// 1 2 3
	// GET /index
}

// A handler that looks at a request and gives the connection to code that blocks.
func ExampleConn_HandOver() {
	srv := &net.Server{Handler: upgrader{}, Options: net.Options{Loops: 1, Logger: slog.New(slog.DiscardHandler)}}
	if err := srv.Start("127.0.0.1:0"); err != nil {
		fmt.Println(err)
		return
	}
	c, err := stdnet.Dial("tcp", srv.Addrs()[0].String())
	if err != nil {
		fmt.Println(err)
		return
	}
	_, _ = io.WriteString(c, "goroutine\nwhat comes behind it\n")
	answer, _ := bufio.NewReader(c).ReadString('\n')
	fmt.Print(answer)
	_ = c.Close()
	_ = srv.Close()
	// Output:
	// a goroutine has read "what comes behind it"
}

type upgrader struct{ net.Events }

func (upgrader) OnData(c *net.Conn, b []byte) int {
	line, _, found := strings.Cut(string(b), "\n")
	if !found {
		return 0
	}
	if line == "goroutine" {
		err := c.HandOver(func(conn stdnet.Conn, err error) {
			if err != nil {
				return // it has ended, which OnClose was told
			}
			defer conn.Close()
			text, _ := bufio.NewReader(conn).ReadString('\n')
			fmt.Fprintf(conn, "a goroutine has read %q\n", strings.TrimSpace(text))
		})
		if err != nil {
			c.Abort(err)
		}
	}
	return len(line) + 1 // the rest is the goroutine's
}
