package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"example.com/ringnet/bench/internal/page"
	"example.com/ringnet/bench/internal/result"
)

// byWrk has wrk(1) ask for the page during the window, which is rounded up to whole
// seconds as wrk wants it. wrk looks at no body, so the page is compared byte by
// byte before, as the warm-up, and again after.
func byWrk(p plan, out io.Writer) error {
	wrk, err := exec.LookPath("wrk")
	if err != nil {
		return errors.New("wrk is missing: install it (on Debian, 'apt-get install wrk'), or use -mode page")
	}
	if err := raiseFileLimit(); err != nil {
		return err
	}
	verified, err := visit(p, p.warmup)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "ringnet-wrk-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	script := filepath.Join(dir, "summary.lua")
	if err := os.WriteFile(script, []byte(wrkScript), 0o600); err != nil {
		return err
	}
	seconds := int(math.Ceil(p.window.Seconds()))
	cmd := exec.Command(wrk, "-t", "1", "-c", strconv.Itoa(p.conns), "-d", strconv.Itoa(seconds)+"s", "--latency", "-s", script,
		"http://"+p.addr.String()+page.Path)
	var told, complaints bytes.Buffer
	cmd.Stdout, cmd.Stderr = &told, &complaints

	own, child := ownCPU(), usedCPU(unix.RUSAGE_CHILDREN)
	fmt.Fprintln(out, result.Began)
	err = cmd.Run()
	fmt.Fprintln(out, result.Ended)
	own, child = ownCPU()-own, usedCPU(unix.RUSAGE_CHILDREN)-child
	if err != nil {
		return fmt.Errorf("wrk: %w: %s", err, strings.TrimSpace(complaints.String()+told.String()))
	}
	report, err := parseWrk(told.String(), p.conns, len(p.answer()))
	if err != nil {
		return fmt.Errorf("wrk: %w", err)
	}
	after, err := visit(p, 0)
	if err != nil {
		return err
	}
	report.OwnCPU, report.ChildCPU, report.Connections, report.Verified = own, child, p.conns, verified+after
	return json.NewEncoder(out).Encode(report)
}

// wrkScript makes wrk end its output with a line of what it rounds above.
const wrkScript = `
done = function(s, l, r)
   io.write(string.format('\nsummary {"Requests":%d,"Bytes":%d,"Micros":%d,"Connect":%d,"Read":%d,"Write":%d,"Status":%d,"Timeout":%d,' ..
      '"Min":%f,"Mean":%f,"Max":%f,"P50":%f,"P90":%f,"P99":%f,"P999":%f}\n',
      s.requests, s.bytes, s.duration, s.errors.connect, s.errors.read, s.errors.write, s.errors.status, s.errors.timeout,
      l.min, l.mean, l.max, l:percentile(50), l:percentile(90), l:percentile(99), l:percentile(99.9)))
end
`

// parseWrk reads that line. Every answer has to have size bytes, and anything that
// went wrong is an error.
func parseWrk(output string, conns, size int) (result.Report, error) {
	_, line, ok := strings.Cut(output, "\nsummary ")
	if !ok {
		return result.Report{}, fmt.Errorf("it gave no summary: %s", strings.TrimSpace(output))
	}
	var s struct {
		Requests, Bytes, Micros               uint64
		Connect, Read, Write, Status, Timeout uint64
		result.Latency
	}
	if err := json.Unmarshal([]byte(line), &s); err != nil {
		return result.Report{}, fmt.Errorf("its summary: %w: %s", err, strings.TrimSpace(line))
	}
	switch {
	case s.Connect+s.Read+s.Write+s.Timeout > 0:
		return result.Report{}, fmt.Errorf("socket errors: %d to connect, %d to read, %d to write, %d timeouts", s.Connect, s.Read, s.Write, s.Timeout)
	case s.Status > 0:
		return result.Report{}, fmt.Errorf("%d answers with another status than 2xx or 3xx", s.Status)
	// Bytes has the parts of answers that were under way at the end, too.
	case s.Bytes < s.Requests*uint64(size) || s.Bytes > (s.Requests+uint64(conns))*uint64(size):
		return result.Report{}, &payloadError{fmt.Errorf("%d answers have %d bytes, %d each would be right", s.Requests, s.Bytes, size)}
	}
	took := time.Duration(s.Micros) * time.Microsecond
	return result.Report{Requests: s.Requests, Bytes: s.Requests * uint64(size), Seconds: took.Seconds(), Latency: s.Latency}, nil
}
