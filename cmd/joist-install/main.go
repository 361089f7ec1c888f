// Command joist-install installs Joist on a machine that was started from a
// medium: by a wizard, or unattended from an answer file.
//
//	joist-install run --consoles tty1,ttyS0 [--unattended] [--plan] [--answer FILE]
//	joist-install check
//	joist-install plan --answer FILE [--facts FILE]
//	joist-install password | slot A|B | boot | enrol      in the rescue system
//
// Exit statuses are listed in docs/exit-codes.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	o, err := parse(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(exitOK)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "joist-install:", err)
		os.Exit(exitUsage)
	}
	os.Exit(execute(ctx, o))
}
