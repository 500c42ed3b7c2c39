//go:build !linux || !(amd64 || arm64)

package net

// Fails to build, with a message that says what is missing.
import _ "example.com/ringnet/bufring"
