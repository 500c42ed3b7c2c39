//go:build linux && race

package net

// simRace says that the race detector is on: worlds take ten times as long.
const simRace = true
