package main

import (
	"fmt"
	"strconv"
	"strings"
)

// units of sizes, the larger ones first.
var units = []struct {
	name  string
	bytes int
}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}}

// sizeName writes a size as short as it can be without a fraction: 4KiB, 1MiB, 1000.
func sizeName(n int) string {
	for _, u := range units {
		if n >= u.bytes && n%u.bytes == 0 {
			return strconv.Itoa(n/u.bytes) + u.name
		}
	}
	return strconv.Itoa(n)
}

// parseBytes reads a size: 4096, 4KiB, or 4K.
func parseBytes(s string) (int, error) {
	digits, factor := s, 1
	for _, u := range units {
		for _, name := range []string{u.name, u.name[:1]} {
			if d, ok := strings.CutSuffix(s, name); ok {
				digits, factor = d, u.bytes
			}
		}
	}
	n, err := strconv.Atoi(digits)
	if err != nil || n < 1 || n > (1<<40)/factor {
		return 0, fmt.Errorf("%q is no size: write bytes, such as 4096, or 4KiB or 1MiB", s)
	}
	return n * factor, nil
}

// parseList reads values that are separated by commas.
func parseList(list string, parse func(string) (int, error)) ([]int, error) {
	var all []int
	for s := range strings.SplitSeq(list, ",") {
		n, err := parse(strings.TrimSpace(s))
		if err != nil {
			return nil, err
		}
		all = append(all, n)
	}
	return all, nil
}
