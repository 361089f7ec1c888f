// Command joist is the tool people run: it builds images, checks answers,
// shows plans and talks to nodes. It needs Linux and no root.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"joist/rootfs/sandbox"
)

func main() {
	sandbox.Main()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	c := cli{in: os.Stdin, out: os.Stdout, err: os.Stderr, env: os.Getenv}
	status := c.run(ctx, os.Args[1:])
	stop()
	os.Exit(status)
}
