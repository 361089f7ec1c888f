package node

import (
	"context"
	"fmt"

	"joist/api/node"
	"joist/api/schema"
	"joist/hypervisor/server"
)

// Reset is how a node is made anew on its own disks.
type Reset struct {
	KeepData bool
	Answer   string // text of an answer file, "" for the wizard
	Force    bool   // guests that run are shut down
}

// maxAnswer is what there is room for on the boot partition.
const maxAnswer = 32 << 10

func (d *Deps) resetRoute() server.Route {
	return server.Route{Method: schema.Method{Verb: "POST", Path: "/nodes/{node}/reset", OnNode: true, NoQuorum: true, Perm: schema.Perm{Root: true},
		Text: "Restart into the installer, which makes the node anew on its own disks.", Params: []schema.Param{server.NodeParam(),
			{Name: "data", Enum: []string{"keep", "wipe"}, Text: "whether guests and the other data stay"},
			{Name: "answer", Optional: true, MaxLen: maxAnswer, Text: "text of the answer file that the installer takes; without one it asks on the consoles"},
			{Name: "force", Type: schema.Boolean, Optional: true, Text: "shut down guests that run"}}}, Do: d.reset}
}

// reset prepares the next start and restarts, which shuts guests down first.
func (d *Deps) reset(ctx context.Context, r *server.Request) (any, error) {
	p := r.Params
	if err := d.Reset(ctx, Reset{KeepData: p.String("data") == "keep", Answer: p.String("answer"), Force: p.Bool("force", false)}); err != nil {
		return nil, err
	}
	return nil, d.ask(ctx, "reboot")
}

// ask has PID 1 do something.
func (d *Deps) ask(ctx context.Context, verb string) error {
	reply, err := d.Init(ctx, node.InitRequest{Verb: verb})
	if err == nil && !reply.OK {
		err = fmt.Errorf("%s", reply.Error)
	}
	if err != nil {
		return fmt.Errorf("ask init for %s: %w", verb, err)
	}
	return nil
}
