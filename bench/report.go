package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
)

// strangers is from which part of a core, used by others than our process, a cell
// is reported as disturbed.
const strangers = 0.05

// busy is the part from which a core counts as fully used.
const busy = 0.97

func printHead(w io.Writer, a about) {
	commit := a.Commit
	if len(commit) > 12 {
		commit = commit[:12]
	}
	if a.Dirty {
		commit += " with changes"
	}
	fmt.Fprintf(w, "%s\n%s, %d CPUs, Linux %s, %s, commit %s, %s\n", strings.Join(a.Command, " "), a.CPU, a.CPUs, a.Kernel,
		a.GoVersion, commit, a.Date.Format("2006-01-02 15:04 MST"))
	if len(a.Programs) > 0 {
		fmt.Fprintln(w, strings.Join(a.Programs, ", "))
	}
}

// figures are the good rows of one server in one cell, by round.
type figures struct {
	rows []row
}

func pick(rows []row, server, cell string) figures {
	var f figures
	for _, r := range rows {
		if r.Server == server && r.Cell == cell && r.Error == "" {
			f.rows = append(f.rows, r)
		}
	}
	return f
}

// all lists one figure of every row.
func (f figures) all(of func(row) float64) []float64 {
	var v []float64
	for _, r := range f.rows {
		v = append(v, of(r))
	}
	return v
}

// last is what the last row says.
func (f figures) last(text func(row) string) string {
	if len(f.rows) == 0 {
		return "-"
	}
	return text(f.rows[len(f.rows)-1])
}

// byRound is the same by round, to be compared with another server's.
func (f figures) byRound(of func(row) float64) map[int]float64 {
	m := make(map[int]float64)
	for _, r := range f.rows {
		m[r.Round] = of(r)
	}
	return m
}

// printCell writes the table of one cell. Every server has a line, also one that
// has no figures.
func (p *contestPlan) printCell(w io.Writer, c cell, rows []row) {
	k, _ := p.kindOf(c)
	fmt.Fprintf(w, "\n%v: %s\n", c, c.title(k))
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	columns := p.columns
	if k.columns != nil {
		columns = k.columns
	}
	head := []string{"server"}
	for _, col := range columns {
		head = append(head, col.head)
		if col.spread {
			head = append(head, "spread")
		}
		for _, b := range p.basesOf(col, k) {
			head = append(head, "vs "+b)
		}
		if col.versus == withAlone {
			head = append(head, "vs alone")
		}
	}
	line(t, head)
	for _, s := range p.servers {
		if !s.takes(k) {
			continue
		}
		f := pick(rows, s.name, c.String())
		cols := []string{s.name}
		for _, col := range columns {
			if col.text != nil {
				cols = append(cols, f.last(col.text))
				continue
			}
			v := f.all(col.of)
			if col.percent {
				cols = append(cols, percent(median(v)))
			} else {
				cols = append(cols, number(median(v), col.decimals))
			}
			if col.spread {
				cols = append(cols, percent(spread(v)))
			}
			against := p.basesOf(col, k)
			if col.versus == withAlone {
				against = []string{s.alone}
			}
			for _, b := range against {
				cols = append(cols, number(paired(f.byRound(col.of), pick(rows, b, c.String()).byRound(col.of)), 2))
			}
		}
		line(t, cols)
	}
	_ = t.Flush()
	printLimited(w, c, p.servers, rows)
	printStrangers(w, c, rows)
}

// basesOf are the servers that a column is compared with under a kind of load.
func (p *contestPlan) basesOf(col column, k kind) []string {
	able := slices.DeleteFunc(slices.Clone(p.bases), func(name string) bool {
		s, _ := find(p.servers, name)
		return !s.takes(k)
	})
	switch {
	case col.versus == withAll:
		return able
	case col.versus == withFirst && len(able) > 0:
		return able[:1]
	}
	return nil
}

// printLimited names servers that the load generator could not keep busy: their
// rates say how fast it is, and only CPU per request says how fast they are.
func printLimited(w io.Writer, c cell, servers []server, rows []row) {
	if c.Rate > 0 {
		return
	}
	var limited []string
	for _, s := range servers {
		f := pick(rows, s.name, c.String())
		server := median(f.all(func(r row) float64 { return r.ServerCPU }))
		load := median(f.all(func(r row) float64 { return r.LoadCPU }))
		if load >= busy && server < busy {
			limited = append(limited, s.name)
		}
	}
	if len(limited) > 0 {
		fmt.Fprintf(w, "limited by the load generator's core: %s; compare their CPU per request\n", strings.Join(limited, ", "))
	}
}

// printStrangers warns when others had a good part of a core during a cell.
func printStrangers(w io.Writer, c cell, rows []row) {
	var worst float64
	n, all := 0, 0
	for _, r := range rows {
		if r.Cell != c.String() || r.Error != "" {
			continue
		}
		all++
		other := max(r.ServerCore-r.ServerCPU, r.LoadCore-r.LoadCPU)
		if other > strangers {
			n++
			worst = max(worst, other)
		}
	}
	if n > 0 {
		fmt.Fprintf(w, "disturbed: in %d of %d rows something else used up to %s of a core; measure again on a quiet machine\n", n, all, percent(worst))
	}
}

// line writes columns, each ended by a tab as right alignment wants it.
func line(w io.Writer, cols []string) {
	fmt.Fprintln(w, strings.Join(cols, "\t")+"\t")
}

func number(v float64, decimals int) string {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return "-"
	}
	return fmt.Sprintf("%.*f", decimals, v)
}

func percent(v float64) string {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return "-"
	}
	return fmt.Sprintf("%.0f%%", 100*v)
}

// printTrouble lists servers that are missing and trials that failed. It returns
// an error if something failed that should not: a trial, or a build for another
// reason than a missing tool.
func printTrouble(w io.Writer, rows []row, absent map[string]error) error {
	var errs []error
	// Several may want the same tool.
	reasons := make(map[string][]string)
	for _, name := range slices.Sorted(maps.Keys(absent)) {
		reasons[absent[name].Error()] = append(reasons[absent[name].Error()], name)
	}
	for _, why := range slices.Sorted(maps.Keys(reasons)) {
		fmt.Fprintf(w, "\n%s: not measured: %s\n", strings.Join(reasons[why], ", "), why)
	}
	for _, name := range slices.Sorted(maps.Keys(absent)) {
		if !errors.Is(absent[name], errAbsent) {
			errs = append(errs, fmt.Errorf("%s could not be built", name))
		}
	}
	failed, wrong := 0, 0
	for _, r := range rows {
		if r.Error == "" {
			continue
		}
		failed++
		if r.WrongPayload {
			wrong++
		}
		fmt.Fprintf(w, "\nfailed: %s, %s, round %d: %s\n", r.Server, r.Cell, r.Round, r.Error)
	}
	if failed > 0 {
		errs = append(errs, fmt.Errorf("%d of %d trials failed, %d of them with a wrong payload", failed, len(rows), wrong))
	}
	return errors.Join(errs...)
}

// shortPath is relative to the working directory where that is shorter.
func shortPath(path string) string {
	wd, err := os.Getwd()
	if err != nil {
		return path
	}
	if rel, err := filepath.Rel(wd, path); err == nil && len(rel) < len(path) {
		return rel
	}
	return path
}
