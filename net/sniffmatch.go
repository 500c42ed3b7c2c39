//go:build linux

package net

import "bytes"

// SniffMatch looks at the first bytes of a connection. It is asked again, with all that
// has come by then, each time more has, so it must be quick and say the same each time: once
// yes or no, it stays so. b is never empty, and valid until it returns. It is called on
// the loops' goroutines, of several at once.
type SniffMatch func(b []byte) SniffVerdict

// SniffVerdict is what a [SniffMatch] says.
type SniffVerdict uint8

const (
	SniffNo   SniffVerdict = iota // whatever comes
	SniffMore                     // it depends on what comes
	SniffYes                      // whatever comes
)

// SniffPrefix matches what begins with prefix.
func SniffPrefix(prefix string) SniffMatch {
	return func(b []byte) SniffVerdict { return begins(b, prefix) }
}

// begins is whether b begins with prefix, or may.
func begins(b []byte, prefix string) SniffVerdict {
	switch n := len(prefix); {
	case len(b) >= n && string(b[:n]) == prefix:
		return SniffYes
	case len(b) < n && string(b) == prefix[:len(b)]:
		return SniffMore
	}
	return SniffNo
}

// SniffTLS matches a ClientHello of TLS, of SSL 3.0 and later: the head of a handshake
// record (RFC 8446 section 5.1), and of the message in it (section 4). Six bytes decide.
func SniffTLS(b []byte) SniffVerdict {
	const (
		handshake   = 22
		clientHello = 1
		recordMax   = 1<<14 + 2048 // of older versions
	)
	switch {
	case b[0] != handshake,
		len(b) > 1 && b[1] != 3,
		len(b) > 2 && b[2] > 4,
		len(b) > 4 && (int(b[3])<<8|int(b[4]) < 4 || int(b[3])<<8|int(b[4]) > recordMax),
		len(b) > 5 && b[5] != clientHello:
		return SniffNo
	case len(b) > 5:
		return SniffYes
	}
	return SniffMore
}

// SniffHTTP2 matches the preface with which clients of HTTP/2 begin, those of gRPC without
// TLS for one (RFC 9113 section 3.4). With TLS the protocol is chosen within it (ALPN).
func SniffHTTP2(b []byte) SniffVerdict { return begins(b, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n") }

// SniffHTTP1 matches a request line of HTTP/1.0 or 1.1: a method, a target and the version
// (RFC 9112 section 3), up to the end of the line. A longer line than Sniff.MaxBytes does
// not match.
func SniffHTTP1(b []byte) SniffVerdict {
	method, rest, found := bytes.Cut(b, []byte(" "))
	// Before a method is judged by its length: those that are registered have at most 17.
	if len(method) > 32 || found && len(method) == 0 {
		return SniffNo
	}
	for _, x := range method {
		if !isToken(x) {
			return SniffNo
		}
	}
	if !found {
		return SniffMore
	}
	target, rest, found := bytes.Cut(rest, []byte(" "))
	if found && len(target) == 0 {
		return SniffNo
	}
	for _, x := range target {
		if x <= ' ' || x == 0x7f {
			return SniffNo
		}
	}
	if !found {
		return SniffMore
	}
	// Servers take a bare line feed, too (section 2.2).
	const version = "HTTP/1."
	n := min(len(rest), len(version))
	switch {
	case string(rest[:n]) != version[:n]:
		return SniffNo
	case len(rest) <= len(version):
		return SniffMore
	case rest[len(version)] < '0' || rest[len(version)] > '9':
		return SniffNo
	}
	switch end := rest[len(version)+1:]; {
	case len(end) == 0 || len(end) == 1 && end[0] == '\r':
		return SniffMore
	case end[0] == '\n' || end[0] == '\r' && end[1] == '\n':
		return SniffYes
	}
	return SniffNo
}

// isToken reports that x may be in a token of HTTP (RFC 9110 section 5.6.2).
func isToken(x byte) bool {
	switch {
	case 'a' <= x && x <= 'z', 'A' <= x && x <= 'Z', '0' <= x && x <= '9':
		return true
	}
	return bytes.IndexByte([]byte("!#$%&'*+-.^_`|~"), x) >= 0
}
