//go:build linux && !race

package net

const simRace = false
