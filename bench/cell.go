package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// cell is one kind of load, written CONNSxSIZExPIPELINE: 64x4096x1. Several sizes
// that alternate on each connection are joined by a plus, 16x64+65536x1; an open
// loop of so many requests per second is appended, 1x64x1@1000. In benchmarks that
// have several kinds of load the kind stands in front, broadcast:1000x64x16.
type cell struct {
	Kind     string `json:",omitempty"`
	Conns    int
	Sizes    []int // of messages, in bytes
	Pipeline int   // messages in flight per connection
	Rate     float64
	Burst    int // messages of one size before the next, when sizes alternate
}

// maxMessage is the largest message that the load generator sends, in bytes.
const maxMessage = 256 << 20

// parseCells reads a list of cells, separated by commas.
func parseCells(list string) ([]cell, error) {
	var cells []cell
	for s := range strings.SplitSeq(list, ",") {
		c, err := parseCell(strings.TrimSpace(s))
		if err != nil {
			return nil, err
		}
		cells = append(cells, c)
	}
	return cells, nil
}

func parseCell(s string) (cell, error) {
	fail := func(err error) (cell, error) {
		return cell{}, fmt.Errorf("cell %q: %w: write CONNSxSIZExPIPELINE, such as 64x64x1, 16x64+65536x1 or 1x64x1@1000", s, err)
	}
	var c cell
	shape, rate, open := strings.Cut(s, "@")
	if kind, rest, ok := strings.Cut(shape, ":"); ok {
		c.Kind, shape = kind, rest
	}
	parts := strings.Split(shape, "x")
	if len(parts) != 3 {
		return fail(fmt.Errorf("it has %d parts and not 3", len(parts)))
	}
	var err error
	if c.Conns, err = strconv.Atoi(parts[0]); err != nil {
		return fail(err)
	}
	if c.Sizes, err = parseSizes(parts[1]); err != nil {
		return fail(err)
	}
	if c.Pipeline, err = strconv.Atoi(parts[2]); err != nil {
		return fail(err)
	}
	if open {
		if c.Rate, err = strconv.ParseFloat(rate, 64); err != nil {
			return fail(err)
		}
		if c.Rate <= 0 {
			return fail(errors.New("the rate must be positive"))
		}
	}
	if err := c.check(); err != nil {
		return fail(err)
	}
	return c, nil
}

// parseSizes reads sizes joined by a plus or a comma.
func parseSizes(s string) ([]int, error) {
	var sizes []int
	for part := range strings.SplitSeq(strings.ReplaceAll(s, "+", ","), ",") {
		n, err := strconv.Atoi(strings.TrimSpace(part))
		if err != nil {
			return nil, err
		}
		sizes = append(sizes, n)
	}
	return sizes, nil
}

func (c cell) check() error {
	if c.Conns < 1 {
		return fmt.Errorf("%d connections: there must be at least 1", c.Conns)
	}
	if c.Pipeline < 1 {
		return fmt.Errorf("%d messages in flight: there must be at least 1", c.Pipeline)
	}
	for _, n := range c.Sizes {
		if n < 1 || n > maxMessage {
			return fmt.Errorf("messages of %d bytes: they must have 1 to %d", n, maxMessage)
		}
	}
	if c.Rate < 0 {
		return fmt.Errorf("%g requests per second: the rate must not be negative", c.Rate)
	}
	return nil
}

// String is the cell as it is written.
func (c cell) String() string {
	s := fmt.Sprintf("%dx%sx%d", c.Conns, c.sizes(), c.Pipeline)
	if c.Rate > 0 {
		s += "@" + strconv.FormatFloat(c.Rate, 'f', -1, 64)
	}
	if c.Kind != "" {
		s = c.Kind + ":" + s
	}
	return s
}

func (c cell) sizes() string {
	var s []string
	for _, n := range c.Sizes {
		s = append(s, strconv.Itoa(n))
	}
	return strings.Join(s, "+")
}

// largest is the largest message.
func (c cell) largest() int {
	n := 0
	for _, s := range c.Sizes {
		n = max(n, s)
	}
	return n
}

// title says the cell in words.
func (c cell) title(k kind) string {
	if k.what != "" {
		return c.shape() + "; " + k.what
	}
	return c.shape()
}

func (c cell) shape() string {
	s := fmt.Sprintf("%s, %s", count(c.Conns, "connection"), count(c.Sizes[0], "byte"))
	for _, n := range c.Sizes[1:] {
		s += fmt.Sprintf(" and %s", count(n, "byte"))
	}
	if len(c.Sizes) > 1 {
		s += fmt.Sprintf(" in turn, %d of each", c.Burst)
	}
	if c.Rate > 0 {
		return s + fmt.Sprintf(", open loop of %g requests/s", c.Rate)
	}
	return s + fmt.Sprintf(", %d in flight on each", c.Pipeline)
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return strconv.Itoa(n) + " " + what + "s"
}

// loadFlags are the load generator's flags for the cell.
func (c cell) loadFlags() []string {
	return []string{"-conns", strconv.Itoa(c.Conns), "-size", c.sizes(), "-pipeline", strconv.Itoa(c.Pipeline),
		"-burst", strconv.Itoa(c.Burst), "-rate", strconv.FormatFloat(c.Rate, 'f', -1, 64)}
}
