//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// devices loads the modules that lie in /modules for this kernel, and tells the tests
// which two network devices QEMU has joined. There may be none.
func devices() error {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return err
	}
	modules, err := filepath.Glob(filepath.Join("/modules", unix.ByteSliceToString(u.Release[:]), "*.ko"))
	if err != nil {
		return err
	}
	for _, name := range modules {
		if err := load(name); err != nil {
			return fmt.Errorf("load %s: %w", name, err)
		}
	}
	// Those that are devices of a bus, unlike the loopback.
	found, err := filepath.Glob("/sys/class/net/*/device")
	if err != nil || len(found) != 2 {
		return err
	}
	for i, path := range found {
		found[i] = filepath.Base(filepath.Dir(path))
	}
	return os.Setenv("RINGNET_TEST_LINK", strings.Join(found, ","))
}

func load(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(unix.FinitModule(int(f.Fd()), "", 0), f.Close())
}
