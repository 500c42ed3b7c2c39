package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

// record keeps raw rows in a file, which is whole after every row.
type record[R any] struct {
	path  string // empty: nowhere
	About about
	Rows  []R
}

// newRecord chooses the file: the one that was asked for, "off" for none, or one
// named by the time in the results directory.
func newRecord[R any](asked, module string, a about) (*record[R], error) {
	r := &record[R]{path: asked, About: a}
	switch asked {
	case "off":
		r.path = ""
	case "":
		dir := filepath.Join(module, "results")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, fmt.Errorf("directory for raw rows: %w: choose a file with -json, or -json off", err)
		}
		r.path = filepath.Join(dir, a.Benchmark+"-"+a.Date.Format("20060102-150405")+".json")
	}
	return r, nil
}

// add appends a row and writes the file.
func (r *record[R]) add(row R) error {
	r.Rows = append(r.Rows, row)
	if r.path == "" {
		return nil
	}
	b, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	// By way of a second file: a run that is killed leaves the first one whole.
	tmp := r.path + ".new"
	if err := os.WriteFile(tmp, append(b, '\n'), 0o644); err != nil {
		return fmt.Errorf("keep raw rows: %w", err)
	}
	if err := os.Rename(tmp, r.path); err != nil {
		return fmt.Errorf("keep raw rows: %w", err)
	}
	return nil
}
