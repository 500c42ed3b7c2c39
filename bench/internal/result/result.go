// Package result is what the load generator tells the runner: the format of its
// report, and the lines that announce the measured window.
package result

// The load generator writes these lines to standard output, each when the thing
// happens, so that the runner can read the processes' clocks at those moments.
// After Ended it keeps the load up for a while, and then writes a Report as one
// line of JSON.
const (
	Began = "measuring" // the warm-up is over
	Ended = "measured"  // the window is over

	// Holding says, in idle mode, that as many connections are open as were
	// asked for. The load generator goes on when it reads a line. In a load
	// without a window it says that the load is on, until the end of standard
	// input; each line of it is answered by the number of bytes received.
	Holding = "holding"
)

// Report is what the load generator saw in the measured window.
type Report struct {
	Requests uint64  // answered in full, every byte compared
	Bytes    uint64  // of payload received
	Seconds  float64 // length of the window
	Latency  Latency
	// Missed counts requests of an open loop that were not sent because too many
	// were unanswered on their connection.
	Missed uint64 `json:",omitempty"`
	// Lost counts datagrams whose answer did not come in time, Late answers that
	// came after that.
	Lost, Late uint64 `json:",omitempty"`

	Enters      uint64  // io_uring_enter calls of the load generator
	Waits       uint64  // of those, the ones that could sleep
	DirectCalls uint64  // send(2) and recv(2) calls
	OwnCPU      float64 // seconds on the CPU, as getrusage(2) tells
	ChildCPU    float64 `json:",omitempty"` // the same of a program that the load generator ran
	Verified    uint64  // bytes compared since the start
	Connections int
}

// Latency is in microseconds. In a closed loop it counts from handing the request
// to the kernel, in an open loop from the time the request was due.
type Latency struct {
	Min, Mean, P50, P90, P99, P999, Max float64
}
