//go:build linux

package interop

import (
	"fmt"
	stdnet "net"
	"testing"

	"golang.org/x/net/nettest"

	"example.com/ringnet/net"
)

// away hands every connection over when its first byte has come, with that in front or
// without.
type away struct {
	net.Events
	front bool
	to    *net.HandOverListener
}

func (a away) OnData(c *net.Conn, b []byte) int {
	if err := c.HandOverTo(a.to); err != nil {
		c.Abort(err)
	}
	if a.front {
		return 0
	}
	return 1
}

// What is handed over passes the tests for connections of package net, with bytes in
// front, after these were read, and without.
func TestHandedOverConnectionIsAConn(t *testing.T) {
	for _, front := range []bool{false, true} {
		for _, network := range []string{"tcp", "unix"} {
			t.Run(fmt.Sprintf("%s front %v", network, front), func(t *testing.T) {
				std := &net.HandOverListener{}
				defer std.Close()
				addr := "127.0.0.1:0"
				if network == "unix" {
					addr = fmt.Sprintf("unix:@ringnet-interop-%s-%v", t.TempDir(), front)
				}
				srv := &net.Server{Handler: away{front: front, to: std}, Options: net.Options{Loops: 1}}
				if err := srv.Start(addr); err != nil {
					t.Fatal(err)
				}
				defer srv.Close()
				nettest.TestConn(t, func() (a, b stdnet.Conn, stop func(), err error) {
					where := srv.Addrs()[0].String()
					if network == "unix" {
						where = srv.Addrs()[0].Path()
					}
					if a, err = stdnet.Dial(network, where); err != nil {
						return nil, nil, nil, err
					}
					if _, err = a.Write([]byte{1}); err != nil {
						return nil, nil, nil, err
					}
					if b, err = std.Accept(); err != nil {
						return nil, nil, nil, err
					}
					if front {
						if n, err := b.Read(make([]byte, 10)); n != 1 || err != nil {
							return nil, nil, nil, fmt.Errorf("the front: %d, %w", n, err)
						}
					}
					return a, b, func() { _ = a.Close(); _ = b.Close() }, nil
				})
			})
		}
	}
}
