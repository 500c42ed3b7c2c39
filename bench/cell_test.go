package main

import (
	"slices"
	"strings"
	"testing"
)

func TestCellsAreReadAsTheyAreWritten(t *testing.T) {
	for _, c := range []struct {
		text string
		want cell
	}{
		{"64x64x1", cell{Conns: 64, Sizes: []int{64}, Pipeline: 1}},
		{"16x64+65536x2", cell{Conns: 16, Sizes: []int{64, 65536}, Pipeline: 2}},
		{"1x64x1@1000", cell{Conns: 1, Sizes: []int{64}, Pipeline: 1, Rate: 1000}},
		{"send:64x64x16", cell{Kind: "send", Conns: 64, Sizes: []int{64}, Pipeline: 16}},
		{"1x64x1@0.5", cell{Conns: 1, Sizes: []int{64}, Pipeline: 1, Rate: 0.5}},
	} {
		got, err := parseCell(c.text)
		if err != nil {
			t.Error(err)
			continue
		}
		if got.Conns != c.want.Conns || !slices.Equal(got.Sizes, c.want.Sizes) || got.Pipeline != c.want.Pipeline || got.Rate != c.want.Rate || got.Kind != c.want.Kind {
			t.Errorf("%s: %+v, want %+v", c.text, got, c.want)
		}
		if got.String() != c.text {
			t.Errorf("%s is written %s", c.text, got)
		}
	}
	cells, err := parseCells("64x64x1, 16x65536x1")
	if err != nil || len(cells) != 2 || cells[1].Sizes[0] != 65536 {
		t.Errorf("list: %v, %v", cells, err)
	}
}

func TestBadCellsAreRefusedWithTheForm(t *testing.T) {
	for _, s := range []string{"", "64", "64x64", "64x64x1x1", "0x64x1", "64x0x1", "64x64x0", "ax64x1", "64x64+x1", "64x64x1@", "64x64x1@-1", "64x64x1@0", "1x999999999x1"} {
		if _, err := parseCell(s); err == nil {
			t.Errorf("%q is taken", s)
		} else if !strings.Contains(err.Error(), "CONNSxSIZExPIPELINE") {
			t.Errorf("%q: the error does not say the form: %v", s, err)
		}
	}
}

func TestBuffersSuitWhatIsInFlight(t *testing.T) {
	for _, c := range []struct {
		cell string
		want int
	}{{"64x64x1", 4096}, {"64x4096x1", 4096}, {"64x4096x2", 8192}, {"64x64x128", 8192}, {"16x65536x1", 65536}, {"16x1048576x1", 65536}, {"16x64+16384x1", 16384}} {
		parsed, err := parseCell(c.cell)
		if err != nil {
			t.Fatal(err)
		}
		if got := bufBytes(parsed); got != c.want {
			t.Errorf("%s: %d bytes, want %d", c.cell, got, c.want)
		}
	}
}
