//go:build linux

package interop

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"testing"

	"github.com/coder/websocket"
)

// echoWebSocket takes the connection out of net/http (Hijack) and echoes messages.
func echoWebSocket(w http.ResponseWriter, r *http.Request) {
	c, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
	if err != nil {
		return
	}
	defer c.CloseNow()
	c.SetReadLimit(8 << 20)
	for {
		kind, b, err := c.Read(r.Context())
		if err != nil {
			return
		}
		if err := c.Write(r.Context(), kind, b); err != nil {
			return
		}
	}
}

func TestWebSocket(t *testing.T) {
	engines(t, func(t *testing.T, p *port) {
		serve(t, p.web, http.HandlerFunc(echoWebSocket), nil)
		serve(t, p.tls, http.HandlerFunc(echoWebSocket), &tls.Config{Certificates: []tls.Certificate{p.cert}, NextProtos: []string{"http/1.1"}})
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: p.pool}}
		defer transport.CloseIdleConnections()
		for _, url := range []string{"ws://", "wss://"} {
			crowd(t, 4, func(i int) error {
				c, _, err := websocket.Dial(ctx, url+p.addr+"/", &websocket.DialOptions{HTTPClient: &http.Client{Transport: transport}})
				if err != nil {
					return err
				}
				defer c.CloseNow()
				c.SetReadLimit(8 << 20)
				for n := range 22 {
					want := payload(uint64(i), 1<<n)
					if err := c.Write(ctx, websocket.MessageBinary, want); err != nil {
						return err
					}
					kind, got, err := c.Read(ctx)
					if err != nil {
						return err
					}
					if kind != websocket.MessageBinary || !bytes.Equal(got, want) {
						return fmt.Errorf("a message of %d bytes: %w", len(want), differ(got, want))
					}
				}
				return c.Close(websocket.StatusNormalClosure, "")
			})
		}
	})
}
