//go:build linux

package net_test

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log"
	"net/http/httptest"

	"example.com/ringnet/net"
)

// greeter tells each client what was agreed upon, and echoes.
type greeter struct{ net.Events }

func (greeter) OnOpen(c *net.Conn) {
	session := c.ConnectionState()
	if _, err := c.Write(fmt.Appendf(nil, "%s to %s\n", session.NegotiatedProtocol, session.ServerName)); err != nil {
		c.Abort(err)
	}
}

func (greeter) OnData(c *net.Conn, b []byte) int {
	if _, err := c.Write(b); err != nil { // encrypted
		c.Abort(err)
	}
	return len(b)
}

// TLS for a handler of callbacks; one of Blocking is secured in the same way. The
// callbacks come after the handshake, and see plain bytes.
func ExampleTLS() {
	certificate, trusted := exampleCertificate() // yours come from tls.LoadX509KeyPair
	config := &tls.Config{Certificates: []tls.Certificate{certificate}, NextProtos: []string{"greeting"}}

	srv := &net.Server{Handler: net.TLS(config, greeter{})}
	if err := srv.Start("127.0.0.1:0"); err != nil {
		log.Fatal(err)
	}
	defer srv.Close()

	c, err := tls.Dial("tcp", srv.Addrs()[0].String(), &tls.Config{RootCAs: trusted, ServerName: "example.com", NextProtos: []string{"greeting"}})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintln(c, "hello")
	lines := bufio.NewScanner(c)
	for range 2 {
		lines.Scan()
		fmt.Println(lines.Text())
	}
	// Output:
	// greeting to example.com
	// hello
}

// exampleCertificate is one for example.com that std has for tests.
func exampleCertificate() (tls.Certificate, *x509.CertPool) {
	web := httptest.NewTLSServer(nil)
	defer web.Close()
	trusted := x509.NewCertPool()
	trusted.AddCert(web.Certificate())
	return web.TLS.Certificates[0], trusted
}
