package main

import (
	"context"
	"log/slog"

	"joist/hypervisor/network"
	"joist/system/dashboard"
)

// runNetwork keeps the node's network configured. It is a process of its own:
// it works before, without and through restarts of the API.
func runNetwork(ctx context.Context, log *slog.Logger) error { return network.Run(ctx, log) }

// runDashboard shows the node's state on one console.
func runDashboard(ctx context.Context, tty string) error { return dashboard.Run(ctx, tty) }
