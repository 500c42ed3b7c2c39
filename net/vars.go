//go:build linux

package net

import "encoding/json"

// Vars shows a server's counters as JSON. It is what std's expvar calls a Var, so
//
//	expvar.Publish("ringnet", srv.Vars())
//
// publishes them at /debug/vars. This package does not import expvar, which brings
// net/http along.
type Vars struct{ s *Server }

// Vars are the server's counters, to be published. Each look at them is a call of
// [Server.LoopStats].
func (s *Server) Vars() Vars { return Vars{s} }

// String implements expvar.Var: the engine, Stats of all loops and of each, and what
// they come to. Durations are in nanoseconds. Safe for concurrent use.
func (v Vars) String() string {
	all := v.s.LoopStats()
	var sum Stats
	for i := range all {
		sum.add(&all[i])
	}
	b, err := json.Marshal(struct {
		Engine                                                         string
		CompletionsPerEnter, EntriesPerEnter, CompletionsPerTurn, Load float64
		Total                                                          Stats
		Loops                                                          []Stats
	}{v.s.Engine().Kind.String(), sum.CompletionsPerEnter(), sum.EntriesPerEnter(), sum.CompletionsPerTurn(), sum.Load(), sum, all})
	if err != nil {
		panic(err) // plain numbers
	}
	return string(b)
}
