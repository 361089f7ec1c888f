// Command joist-init is the program behind three names: /init of the
// initramfs (stage 1), /sbin/init of the system image (PID 1) and a small
// tool that talks to the latter ("reboot", "poweroff", "status",
// "rescue-mount", "start|stop|restart NAME").
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"joist/api/node"
	"joist/internal/run"
	"joist/system/pid1"
	"joist/system/stage1"
)

func main() {
	switch {
	case stage1.Applies():
		stage1.Main()
	case os.Getpid() == 1:
		pid1.Main()
	}
	if err := tool(os.Args); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", filepath.Base(os.Args[0]), err)
		os.Exit(1)
	}
}

func tool(args []string) error {
	name := filepath.Base(args[0])
	if name == "joist-init" || name == "init" {
		args = args[1:]
	} else {
		args = append([]string{name}, args[1:]...)
	}
	if len(args) == 0 {
		return fmt.Errorf("usage: joist-init status | reboot | poweroff | rescue-mount | start|stop|restart NAME")
	}
	if args[0] == "rescue-mount" {
		return pid1.RescueMount(context.Background(), run.OS{}, func(l string) { fmt.Println(l) })
	}
	req := node.InitRequest{Verb: args[0]}
	if len(args) > 1 {
		req.Name = args[1]
	}
	reply, err := pid1.Ask(req)
	for _, s := range reply.Services {
		fmt.Printf("%-20s %-10s pid %-6d restarts %-3d %s\n", s.Name, s.State, s.PID, s.Restarts, s.Error)
	}
	return err
}
