// Package control is the agreement between the benchmark's runner and the
// servers that it starts.
//
// A server takes -addr HOST:PORT, where port 0 lets the system choose, and -buf
// BYTES if a size of buffer means something to it. It writes the line "ready
// ADDR" to standard output once it listens. To each line on standard input it
// answers with one line of JSON: to "stats" with its counters ([Stats]), to "gc"
// once it has given back all memory it does not need, with {}. It ends when
// standard input does, or by SIGTERM.
package control

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
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
}

// Serve says that the server listens on addr, and answers the runner for as long
// as it asks. At the end of standard input it ends the process. stats may be nil;
// it is called on this goroutine.
func Serve(addr fmt.Stringer, stats func() any) {
	fmt.Println(Ready, addr)
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
