package main

import (
	"context"
	"encoding/json"
	"time"

	"joist/api/node"
	"joist/internal/run"
	"joist/system/rescue"
	"joist/system/support"
)

// support is this node as a support bundle sees it.
func (d *daemon) support() support.Machine {
	return support.Machine{Root: d.p.root, Run: run.OS{}, KernelLog: rescue.Kernel{}.KernelLog, Now: time.Now, Status: func() ([]byte, error) {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		reply, err := d.askInit(ctx, node.InitRequest{Verb: "status"})
		if err != nil {
			return nil, err
		}
		return json.MarshalIndent(reply, "", "  ")
	}}
}
