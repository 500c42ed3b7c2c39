// Package control is the agreement between the benchmark's runner and the
// servers that it starts.
//
// A server takes -addr ADDR ([Network]), where port 0 lets the system choose, and
// -buf BYTES if a size of buffer means something to it. It writes the line "ready
// ADDR" to standard output once it listens; with -content ADDR it serves content
// ([Request]) on a second address, and the line has both. To each line on standard input it
// answers with one line of JSON: to "stats" with its counters ([Stats]), to "gc"
// once it has given back all memory it does not need, with {}. It ends when
// standard input does, or by SIGTERM.
package control

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strings"
)

// The words of the agreement.
const (
	Ready = "ready" // "ready ADDR", from the server
	Ask   = "stats" // to the server
	GC    = "gc"    // to the server
)

// Stats is the answer to "stats". A server may add counters of its own.
type Stats struct {
	// Enters is how often io_uring_enter(2) was called; nil where there is no ring.
	Enters *uint64 `json:"enters,omitempty"`
	// Heap is the Go heap's live and not yet collected objects, in bytes.
	Heap uint64 `json:"heap,omitempty"`
	// Bound is the most memory that the server's options let it use, in bytes,
	// beside what the Go runtime takes; 0: it has none.
	Bound uint64 `json:"bound,omitempty"`
	// ZeroCopy is what the kernel has reported of zero-copy sends; nil where there are
	// none, or where it does not report.
	ZeroCopy *ZeroCopy `json:"zerocopy,omitempty"`
}

// ZeroCopy counts the notifications of zero-copy sends, and of them those that
// reported that the kernel had copied after all.
type ZeroCopy struct {
	Notified uint64 `json:"notified"`
	Copied   uint64 `json:"copied"`
}

// AckMax is the most messages that one byte acknowledges.
const AckMax = 255

// Ack is how many messages a receiver acknowledges at a time, when window of them
// may be unacknowledged. It does so by a byte of that value.
func Ack(window int) int { return max(1, window/2) }

// Heap reads [Stats.Heap].
func Heap() uint64 {
	s := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}

// Network splits an address as the runner writes it, HOST:PORT for TCP,
// udp:HOST:PORT or unix:PATH, into what std's net calls network and address.
func Network(addr string) (network, address string) {
	for _, n := range []string{"udp", "unix"} {
		if a, ok := strings.CutPrefix(addr, n+":"); ok {
			return n, a
		}
	}
	return "tcp", addr
}

// Addr is an address in the runner's form.
type Addr struct{ Network, Address string }

// String implements fmt.Stringer.
func (a Addr) String() string {
	if a.Network == "tcp" {
		return a.Address
	}
	return a.Network + ":" + a.Address
}

// Request asks for content: N bytes of the stream of package payload, from Offset
// on. On the wire it is two little-endian numbers of 8 bytes.
type Request struct{ Offset, N uint64 }

// RequestBytes is the length of a request.
const RequestBytes = 16

// AppendTo appends the request to b.
func (r Request) AppendTo(b []byte) []byte {
	return binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(b, r.Offset), r.N)
}

// ParseRequest reads the request at the beginning of b, which has RequestBytes.
func ParseRequest(b []byte) Request {
	return Request{Offset: binary.LittleEndian.Uint64(b), N: binary.LittleEndian.Uint64(b[8:])}
}

// Serve says that the server listens on addrs, and answers the runner for as long
// as it asks. At the end of standard input it ends the process. stats may be nil;
// it is called on this goroutine.
func Serve(stats func() any, addrs ...fmt.Stringer) {
	fmt.Print(Ready)
	for _, a := range addrs {
		fmt.Print(" ", a)
	}
	fmt.Println()
	in := bufio.NewScanner(os.Stdin)
	out := json.NewEncoder(os.Stdout)
	for in.Scan() {
		var answer any = Stats{}
		switch in.Text() {
		case GC:
			// Twice: the first run only moves what sync.Pools hold to their
			// victims, the second frees it.
			runtime.GC()
			debug.FreeOSMemory()
		case Ask:
			answer = Stats{Heap: Heap()}
			if stats != nil {
				answer = stats()
			}
		}
		if err := out.Encode(answer); err != nil {
			break
		}
	}
	os.Exit(0)
}

// Fail ends the process because a server could not do something.
func Fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
