package main

import (
	"encoding/json"
	"math"

	"example.com/ringnet/bench/internal/control"
)

// column is a figure of each row, as a table shows it: the median over the rounds.
type column struct {
	head     string
	of       func(row) float64 // NaN where there is none
	text     func(row) string  // or words, those of the last row
	decimals int
	percent  bool
	spread   bool // followed by how far the rounds are apart
	versus   versus
}

// versus says which ratios follow a column.
type versus uint8

const (
	withNone versus = iota
	withFirst
	withAll
	withAlone // the same server without a second load
)

// rates are the columns of a benchmark that counts things done.
func rates(many, one string, more ...column) []column {
	return append([]column{
		{head: many + "/s", of: rate, spread: true, versus: withAll},
		{head: "CPU µs/" + one, of: perRequest, decimals: 2, versus: withFirst},
		{head: "core µs/" + one, of: corePerRequest, decimals: 2, versus: withFirst},
		serverCoreColumn, loadCoreColumn,
	}, more...)
}

// volumes are the columns of a benchmark that moves large amounts.
func volumes(more ...column) []column {
	return append([]column{
		{head: "MB/s", of: megabytes, spread: true, versus: withAll},
		{head: "CPU s/GB", of: perGigabyte, decimals: 3, versus: withFirst},
		{head: "core s/GB", of: corePerGigabyte, decimals: 3, versus: withFirst},
		serverCoreColumn, loadCoreColumn,
	}, more...)
}

var (
	serverCoreColumn = column{head: "server core", of: func(r row) float64 { return r.ServerCore }, percent: true}
	loadCoreColumn   = column{head: "load core", of: func(r row) float64 { return r.LoadCore }, percent: true}
	entersColumn     = column{head: "enters/req", of: entersPerRequest, decimals: 3}
	p50Column        = column{head: "p50 µs", of: p50}
	p99Column        = column{head: "p99 µs", of: p99}
	volumeColumn     = column{head: "MB/s", of: megabytes}
)

var echoColumns = rates("requests", "req", entersColumn, p50Column, p99Column, volumeColumn)

func rate(r row) float64      { return r.RequestsPerSecond }
func megabytes(r row) float64 { return r.BytesPerSecond / 1e6 }
func p50(r row) float64       { return latency(r, r.Report.Latency.P50) }
func p99(r row) float64       { return latency(r, r.Report.Latency.P99) }

// latency is NaN where the window ended before any request did.
func latency(r row, of float64) float64 {
	if r.RequestsPerSecond == 0 {
		return math.NaN()
	}
	return of
}

// perRequest is the CPU time that the server's process took.
func perRequest(r row) float64 { return r.CPUPerRequest }

// perCPUSecond is its reverse: requests for a second of that.
func perCPUSecond(r row) float64 { return 1e6 / r.CPUPerRequest }

// corePerRequest is the time that the server's core was busy: with interrupts that
// came while the server slept, and everything else that ran there.
func corePerRequest(r row) float64 { return r.ServerCore * 1e6 / r.RequestsPerSecond }

func perGigabyte(r row) float64     { return r.ServerCPU * 1e9 / r.BytesPerSecond }
func corePerGigabyte(r row) float64 { return r.ServerCore * 1e9 / r.BytesPerSecond }

// entersPerPiece is NaN where the server does not tell.
func entersPerPiece(r row) float64 {
	piece, err := parseBytes(r.Load.Kind)
	if r.EntersPerSecond == nil || err != nil {
		return math.NaN()
	}
	return *r.EntersPerSecond * float64(piece) / r.BytesPerSecond
}

// copiesOf shows copies that were known or reported.
func copiesOf(of func(copies) float64) func(row) float64 {
	return func(r row) float64 {
		if r.Copies == nil {
			return math.NaN()
		}
		return of(*r.Copies)
	}
}

// lost is the part of the datagrams that were not answered in time.
func lost(r row) float64 { return float64(r.Report.Lost) / float64(r.Report.Lost+r.Report.Requests) }

// besideVolume is what the second load received.
func besideVolume(r row) float64 {
	if r.BesideBytesPerSecond == 0 {
		return math.NaN()
	}
	return r.BesideBytesPerSecond / 1e6
}

// entersPerRequest is NaN where the server does not tell.
func entersPerRequest(r row) float64 {
	if r.EntersPerRequest == nil {
		return math.NaN()
	}
	return *r.EntersPerRequest
}

// inMegabytes shows an amount of memory.
func inMegabytes(head string, of func(row) int64) column {
	return column{head: head + " MB", decimals: 1, of: func(r row) float64 {
		if n := of(r); n > 0 {
			return float64(n) / 1e6
		}
		return math.NaN()
	}}
}

// told is the server's counters at the end of the window.
func told(r row) (s control.Stats) {
	_ = json.Unmarshal(r.After, &s)
	return s
}
