package main

import (
	"context"

	clusterapi "joist/hypervisor/server/cluster"
)

// wireGuests adds guests and storage: their routes, what lists show of them
// and how their interrupted tasks are undone.
func (d *daemon) wireGuests(_ context.Context, p *parts) error {
	p.guests, p.storages = nothing{}, nothing{}
	return nil
}

// nothing is what a daemon without drivers has.
type nothing struct{}

func (nothing) Guests(context.Context) ([]clusterapi.Guest, error) {
	return []clusterapi.Guest{}, nil
}

func (nothing) Storages(context.Context) ([]clusterapi.Storage, error) {
	return []clusterapi.Storage{}, nil
}
