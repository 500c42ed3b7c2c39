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

	"example.com/ringnet/bench/internal/files"
	"example.com/ringnet/bench/internal/page"
	"example.com/ringnet/bench/internal/result"
)

// target is what wrk asks for.
type target struct {
	path   string // the URL's
	script string // that wrk runs
	args   []string
	visit  func(least time.Duration) (visited, error)
	// payload is how much of what wrk has received counts.
	payload func(requests, bytes uint64, v visited) uint64
}

// visited is what was asked for beside wrk.
type visited struct {
	verified    uint64 // bytes
	least, most int    // bytes of an answer
}

func (v *visited) add(w visited) {
	if v.most == 0 {
		v.least = w.least
	}
	v.verified += w.verified
	v.least, v.most = min(v.least, w.least), max(v.most, w.most)
}

// target is the page, or with files those.
func (p plan) target() (target, error) {
	if p.files == 0 {
		size := len(p.answer())
		return target{path: page.Path,
			visit: func(least time.Duration) (visited, error) {
				n, err := visit(p, least)
				return visited{n, size, size}, err
			},
			payload: func(requests, _ uint64, _ visited) uint64 { return requests * uint64(size) },
		}, nil
	}
	set, err := p.fileSet()
	if err != nil {
		return target{}, err
	}
	return target{path: "/" + files.Name(set.size, 0), script: set.script(),
		// Large files may take longer than the two seconds of its own.
		args:  []string{"--timeout", "30s"},
		visit: func(least time.Duration) (visited, error) { return set.visit(p, least) },
		// With the parts of answers that the end cut off: of large files that is
		// much. The heads of those are taken for payload.
		payload: func(requests, bytes uint64, v visited) uint64 {
			return bytes - requests*uint64(v.least-set.size)
		},
	}, nil
}

// byWrk has wrk(1) ask for the page or for files during the window, which is rounded
// up to whole seconds as wrk wants it. wrk looks at no body, so all is compared byte by
// byte before, as the warm-up, and again after.
func byWrk(p plan, out io.Writer) error {
	wrk, err := exec.LookPath("wrk")
	if err != nil {
		return errors.New("wrk is missing: install it (on Debian, 'apt-get install wrk'), or use -mode page")
	}
	if err := raiseFileLimit(); err != nil {
		return err
	}
	asked, err := p.target()
	if err != nil {
		return err
	}
	seen, err := asked.visit(p.warmup)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "ringnet-wrk-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	script := filepath.Join(dir, "summary.lua")
	if err := os.WriteFile(script, []byte(asked.script+wrkScript), 0o600); err != nil {
		return err
	}
	seconds := int(math.Ceil(p.window.Seconds()))
	args := append([]string{"-t", "1", "-c", strconv.Itoa(p.conns), "-d", strconv.Itoa(seconds) + "s", "--latency", "-s", script}, asked.args...)
	cmd := exec.Command(wrk, append(args, "http://"+p.addr.String()+asked.path)...)
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
	after, err := asked.visit(0)
	if err != nil {
		return err
	}
	seen.add(after)
	report, err := parseWrk(told.String(), p.conns, seen)
	if err != nil {
		return fmt.Errorf("wrk: %w", err)
	}
	report.Bytes = asked.payload(report.Requests, report.Bytes, seen)
	report.OwnCPU, report.ChildCPU, report.Connections, report.Verified = own, child, p.conns, seen.verified
	return json.NewEncoder(out).Encode(report)
}

// wrkScript makes wrk end its output with a line of what it rounds above. Of no
// requests it has no latencies.
const wrkScript = `
done = function(s, l, r)
   if s.requests == 0 then
      l = {min = 0, mean = 0, max = 0, percentile = function() return 0 end}
   end
   io.write(string.format('\nsummary {"Requests":%d,"Bytes":%d,"Micros":%d,"Connect":%d,"Read":%d,"Write":%d,"Status":%d,"Timeout":%d,' ..
      '"Min":%f,"Mean":%f,"Max":%f,"P50":%f,"P90":%f,"P99":%f,"P999":%f}\n',
      s.requests, s.bytes, s.duration, s.errors.connect, s.errors.read, s.errors.write, s.errors.status, s.errors.timeout,
      l.min, l.mean, l.max, l:percentile(50), l:percentile(90), l:percentile(99), l:percentile(99.9)))
end
`

// parseWrk reads that line. Every answer has to be as long as those that were seen, and
// anything that went wrong is an error. The report has all bytes that wrk has received.
func parseWrk(output string, conns int, v visited) (result.Report, error) {
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
	case s.Bytes < s.Requests*uint64(v.least) || s.Bytes > (s.Requests+uint64(conns))*uint64(v.most):
		return result.Report{}, &payloadError{fmt.Errorf("%d answers have %d bytes, %d to %d each would be right", s.Requests, s.Bytes, v.least, v.most)}
	}
	took := time.Duration(s.Micros) * time.Microsecond
	return result.Report{Requests: s.Requests, Bytes: s.Bytes, Seconds: took.Seconds(), Latency: s.Latency}, nil
}
