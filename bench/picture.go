package main

import (
	"cmp"
	"errors"
	"fmt"
	"image/color"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// look is how the line of a path looks: its colour says what the bytes are sent from,
// dashes that each piece is waited for, its marks who sends.
type look struct {
	colour color.Color
	dashed bool
	mark   draw.GlyphDrawer
}

var (
	blue   = color.RGBA{R: 0x1f, G: 0x77, B: 0xb4, A: 0xff}
	green  = color.RGBA{R: 0x2c, G: 0xa0, B: 0x2c, A: 0xff}
	black  = color.RGBA{A: 0xff}
	grey   = color.RGBA{R: 0x8a, G: 0x8a, B: 0x8a, A: 0xff}
	red    = color.RGBA{R: 0xd6, G: 0x27, B: 0x28, A: 0xff}
	orange = color.RGBA{R: 0xff, G: 0x7f, B: 0x0e, A: 0xff}
	purple = color.RGBA{R: 0x94, G: 0x67, B: 0xbd, A: 0xff}
	brown  = color.RGBA{R: 0x8c, G: 0x56, B: 0x4b, A: 0xff}

	byCalls = draw.RingGlyph{}
	byRing  = draw.BoxGlyph{}
	byZC    = draw.PyramidGlyph{}
)

var looks = map[string]look{
	"read+write":      {blue, false, byCalls},
	"mmap+write":      {green, false, byCalls},
	"sendfile":        {black, false, byCalls},
	"splice":          {grey, false, byCalls},
	"uring-read+send": {blue, false, byRing},
	"uring-mmap+send": {green, false, byRing},
	"zc-read-wait":    {orange, true, byZC},
	"zc-read":         {orange, false, byZC},
	"zc-fixed-wait":   {red, true, byZC},
	"zc-fixed":        {red, false, byZC},
	"zc-mmap-wait":    {purple, true, byZC},
	"zc-mmap":         {purple, false, byZC},
	"zc-memory-wait":  {brown, true, byZC},
	"zc-memory":       {brown, false, byZC},
	"uring-splice":    {grey, false, byRing},
}

// Of the picture.
const (
	panelWidth  = 12 * vg.Centimeter
	panelHeight = 12 * vg.Centimeter
	legendWidth = 6 * vg.Centimeter
	margin      = 0.06 // around the lines, as a logarithm
)

// draw draws CPU per GB over the size of the pieces, both as logarithms: a panel for
// each number of connections, in it a line for each path. The axes are linear ones
// of logarithms, since plot finds a wrong middle on logarithmic ones and leaves room
// for the label there.
func (p *pathsPlan) draw(path string, rows []row) (err error) {
	var panels []*plot.Plot
	legend := plot.NewLegend()
	legend.Padding = vg.Points(3)
	legend.ThumbnailWidth = vg.Points(30)
	low, high := math.Inf(1), math.Inf(-1)
	named := make(map[string]bool)
	for _, conns := range p.connections {
		panel := p.panel(conns)
		for _, s := range p.servers {
			at := p.line(s, conns, rows)
			if len(at) == 0 {
				continue // every trial of it failed
			}
			for _, xy := range at {
				low, high = min(low, xy.Y), max(high, xy.Y)
			}
			line, points, err := plotter.NewLinePoints(at)
			if err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
			l := looks[s.name]
			line.Color, line.Width = l.colour, vg.Points(1.3)
			if l.dashed {
				line.Dashes = plotutil.Dashes(1)
			}
			points.Color, points.Shape, points.Radius = l.colour, l.mark, vg.Points(2.5)
			panel.Add(line, points)
			if !named[s.name] {
				named[s.name] = true
				legend.Add(s.name, line, points)
			}
		}
		panels = append(panels, panel)
	}
	if len(named) == 0 {
		return errors.New("there is no figure to be drawn")
	}
	for _, panel := range panels {
		// The same scale, so that the panels can be compared.
		panel.Y.Min, panel.Y.Max = low-margin, high+margin
		panel.Y.Tick.Marker = ticks125(panel.Y.Min, panel.Y.Max)
	}

	width := vg.Length(len(panels))*panelWidth + legendWidth
	c, err := draw.NewFormattedCanvas(width, panelHeight, filepath.Ext(path)[1:])
	if err != nil {
		return err
	}
	all := draw.New(c)
	all.SetColor(color.White)
	all.Fill(all.Rectangle.Path())
	left := draw.Crop(all, 0, -legendWidth, 0, 0)
	tiles := draw.Tiles{Rows: 1, Cols: len(panels), PadX: vg.Points(12), PadTop: vg.Points(6), PadBottom: vg.Points(6), PadLeft: vg.Points(6), PadRight: vg.Points(6)}
	for i, canvas := range plot.Align([][]*plot.Plot{panels}, tiles, left)[0] {
		panels[i].Draw(canvas)
	}
	legend.Top, legend.Left = true, true
	legend.Draw(draw.Crop(all, width-legendWidth, 0, 0, -vg.Centimeter))

	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = c.WriteTo(f)
	if e := f.Close(); err == nil {
		err = e
	}
	return err
}

// panel is one without lines.
func (p *pathsPlan) panel(conns int) *plot.Plot {
	panel := plot.New()
	panel.Title.Text = count(conns, "connection")
	panel.X.Label.Text = "bytes in a piece"
	panel.Y.Label.Text = "CPU of the server, seconds per GB"
	var ticks plot.ConstantTicks
	for _, n := range p.pieces {
		ticks = append(ticks, plot.Tick{Value: math.Log10(float64(n)), Label: sizeName(n)})
	}
	panel.X.Tick.Marker = ticks
	panel.X.Min, panel.X.Max = math.Log10(float64(slices.Min(p.pieces)))-margin, math.Log10(float64(slices.Max(p.pieces)))+margin
	panel.Add(plotter.NewGrid())
	return panel
}

// ticks125 marks 1, 2 and 5 of every decade between two logarithms.
func ticks125(low, high float64) plot.ConstantTicks {
	var ticks plot.ConstantTicks
	for e := int(math.Floor(low)); e <= int(math.Ceil(high)); e++ {
		for _, digit := range []float64{1, 2, 5} {
			v := digit * math.Pow10(e)
			if at := math.Log10(v); at >= low && at <= high {
				ticks = append(ticks, plot.Tick{Value: at, Label: strconv.FormatFloat(v, 'g', 3, 64)})
			}
		}
	}
	return ticks
}

// line is the points of a path, as logarithms: medians over the rounds.
func (p *pathsPlan) line(s server, conns int, rows []row) plotter.XYs {
	var at plotter.XYs
	for _, c := range p.cells {
		if c.Conns != conns {
			continue
		}
		cpu := median(pick(rows, s.name, c.String()).all(perGigabyte))
		piece, err := parseBytes(c.Kind)
		if err != nil || !(cpu > 0) || math.IsInf(cpu, 0) {
			continue // no trial went well, or the process took no time that can be seen
		}
		at = append(at, plotter.XY{X: math.Log10(float64(piece)), Y: math.Log10(cpu)})
	}
	slices.SortFunc(at, func(a, b plotter.XY) int { return cmp.Compare(a.X, b.X) })
	return at
}
