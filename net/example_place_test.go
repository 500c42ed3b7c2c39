//go:build linux

package net_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"example.com/ringnet/net"
)

// echoing is a handler that sends back what it gets.
type echoing struct{ net.Events }

func (echoing) OnData(c *net.Conn, b []byte) int {
	_, _ = c.Write(b)
	return len(b)
}

// A server that restarts on SIGHUP without losing a connection: its successor
// inherits the listeners, and tells when it serves.
func ExampleServer_ListenerFiles() {
	srv := &net.Server{Handler: echoing{}}
	addr := "127.0.0.1:9000"
	if inherited := os.Getenv("LISTENERS"); inherited != "" {
		addr = inherited
	}
	if err := srv.Start(addr); err != nil {
		log.Fatal(err)
	}
	if addr != "127.0.0.1:9000" {
		_ = syscall.Kill(os.Getppid(), syscall.SIGUSR1) // we serve
	}

	hangup, serves := make(chan os.Signal, 1), make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	signal.Notify(serves, syscall.SIGUSR1)
	<-hangup
	files, err := srv.ListenerFiles()
	if err != nil {
		log.Fatal(err)
	}
	next := exec.Command("/proc/self/exe")
	next.ExtraFiles = files // from descriptor 3 on
	next.Env = append(os.Environ(), fmt.Sprintf("LISTENERS=fd:3-%d", 2+len(files)))
	if err := next.Start(); err != nil {
		log.Fatal(err)
	}
	<-serves
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	log.Print(srv.Retire(ctx))
}
