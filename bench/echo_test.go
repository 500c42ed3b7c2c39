package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestTurnsGiveEveryServerEveryPlace(t *testing.T) {
	list := catalog[:4]
	first := make(map[string]int)
	after := make(map[string]bool)
	for round := range 2 * len(list) {
		order := names(turns(list, round))
		if s := slices.Sorted(slices.Values(order)); !slices.Equal(s, slices.Sorted(slices.Values(names(list)))) {
			t.Fatalf("round %d: %v", round, order)
		}
		first[order[0]]++
		for i := range order[1:] {
			after[fmt.Sprint(order[i], " ", order[i+1])] = true
		}
	}
	for _, s := range list {
		if first[s.name] != 2 {
			t.Errorf("%s began %d times in %d rounds", s.name, first[s.name], 2*len(list))
		}
	}
	if len(after) <= len(list) {
		t.Errorf("the same servers always follow each other: %v", after)
	}
}

func TestEchoFlags(t *testing.T) {
	p, err := parseEcho(strings.Fields("-conns 16 -size 64,65536 -burst 4 -rounds 2 -seconds 0.3 -servers ringnet,std -base std,gnet"))
	if err != nil {
		t.Fatal(err)
	}
	if len(p.cells) != 1 || p.cells[0].String() != "16x64+65536x1" || p.cells[0].Burst != 4 {
		t.Errorf("cells %+v", p.cells)
	}
	if got := names(p.servers); !slices.Equal(got, []string{"ringnet", "std"}) {
		t.Errorf("servers %v", got)
	}
	if !slices.Equal(p.bases, []string{"std"}) {
		t.Errorf("bases %v: gnet is not measured", p.bases)
	}
	if p.warmup <= 0 || p.warmup > p.window {
		t.Errorf("warm-up of %v for a window of %v", p.warmup, p.window)
	}
	for _, bad := range []string{"-conns 0", "-size x", "-rounds 0", "-seconds 0", "-servers nobody", "-base nobody", "-burst 0", "-cells 1x1", "-server-core 5000", "stray"} {
		if _, err := parseEcho(strings.Fields(bad)); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestDefaultServersAreAllButTheExtraOnes(t *testing.T) {
	chosen, err := choose("")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"ringnet", "ringnet-epoll", "std", "gnet", "netpoll", "giouring", "uring-c", "epoll-c"}
	if got := names(chosen); !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
