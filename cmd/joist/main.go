// Command joist is the tool people run: it builds images, serves them, checks
// answers and talks to nodes. It needs Linux and no root.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"joist/internal/finding"
	"joist/rootfs/sandbox"
)

func main() {
	sandbox.Main()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := root().ExecuteContext(ctx)
	var fe *finding.Error
	switch {
	case err == nil:
	case errors.As(err, &fe):
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	case ctx.Err() != nil:
		fmt.Fprintln(os.Stderr, "joist: interrupted; nothing half done was left behind")
		os.Exit(130)
	default:
		fmt.Fprintln(os.Stderr, "joist:", err)
		os.Exit(1)
	}
}
