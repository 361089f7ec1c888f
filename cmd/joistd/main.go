// Command joistd is the node daemon: the API with guests, storage and tasks
// behind it, and, as processes of their own, network and dashboard.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if err := command(log).ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "joistd:", err)
		os.Exit(1)
	}
}

func command(log *slog.Logger) *cobra.Command {
	root := &cobra.Command{Use: "joistd", Short: "Joist node daemon", SilenceUsage: true, SilenceErrors: true}
	p := nodePaths()
	serveCmd := &cobra.Command{Use: "serve", Short: "Serve the API", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return serve(c.Context(), log, p) }}
	serveCmd.Flags().StringVar(&p.listen, "listen", p.listen, "address and port of the API")
	root.AddCommand(serveCmd,
		&cobra.Command{Use: "network", Short: "Keep the network configured", Args: cobra.NoArgs,
			RunE: func(c *cobra.Command, _ []string) error { return runNetwork(c.Context(), log) }},
		&cobra.Command{Use: "firstboot", Short: "Go through the first start of the node", Args: cobra.NoArgs,
			RunE: func(c *cobra.Command, _ []string) error { return firstBoot(c.Context(), log, p) }},
		&cobra.Command{Use: "dashboard TTY", Short: "Show the node's state on a console", Args: cobra.ExactArgs(1),
			RunE: func(c *cobra.Command, args []string) error { return runDashboard(c.Context(), args[0]) }},
		&cobra.Command{Use: "stop-guests", Short: "Shut all guests of the node down", Args: cobra.NoArgs,
			RunE: func(c *cobra.Command, _ []string) error { return stopGuests(c.Context(), p.socket, os.Stdout) }})
	return root
}
