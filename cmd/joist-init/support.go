package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"joist/api/node"
	"joist/internal/run"
	"joist/system/pid1"
	"joist/system/rescue"
	"joist/system/support"
)

// supportBundle writes a bundle to a file, by default a new one in this folder.
func supportBundle(ctx context.Context, args []string) error {
	if len(args) > 1 {
		return errUsage
	}
	m := support.Machine{Root: "/", Run: run.OS{}, KernelLog: rescue.Kernel{}.KernelLog, Now: time.Now, Status: func() ([]byte, error) {
		reply, err := pid1.Ask(node.InitRequest{Verb: "status"})
		if err != nil {
			return nil, err
		}
		return json.MarshalIndent(reply, "", "  ")
	}}
	name := m.Name()
	if len(args) == 1 {
		name = args[0]
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("write support bundle: %w", err)
	}
	err = m.Write(ctx, f)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write support bundle: %w", err)
	}
	fmt.Println(name)
	return nil
}
