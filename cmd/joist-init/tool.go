package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"joist/api/node"
	"joist/internal/run"
	"joist/system/pid1"
	"joist/system/rescue"
)

var errUsage = errors.New("usage: joist-init status | reboot | poweroff | start|stop|restart NAME | rescue-mount | support [FILE] | keymap LAYOUT | rescue [COMMAND]")

// tool is what the program does when it is no PID 1. Under another name than
// its own ("reboot") it does what that says.
func tool(args []string) error {
	name := filepath.Base(args[0])
	if name == "joist-init" || name == "init" {
		args = args[1:]
	} else {
		args = append([]string{name}, args[1:]...)
	}
	if len(args) == 0 {
		return errUsage
	}
	ctx := context.Background()
	switch args[0] {
	case "rescue-mount":
		return pid1.RescueMount(ctx, run.OS{}, func(l string) { fmt.Println(l) })
	case "keymap":
		if len(args) != 2 {
			return errUsage
		}
		return pid1.SetKeymap(ctx, run.OS{}, args[1])
	case "support":
		return supportBundle(ctx, args[1:])
	case "rescue":
		return rescueTool(ctx, args[1:])
	}
	return ask(args)
}

// ask sends a request to PID 1 and shows what it answers.
func ask(args []string) error {
	req := node.InitRequest{Verb: args[0]}
	if len(args) > 1 {
		req.Name = args[1]
	}
	reply, err := pid1.Ask(req)
	for _, s := range reply.Services {
		fmt.Printf("%-20s %-10s pid %-6d restarts %-3d %s\n", s.Name, s.State, s.PID, s.Restarts, s.Error)
	}
	for _, p := range reply.Phases {
		if p.State != node.PhaseDone {
			fmt.Printf("boot: %s: %s %s\n", p.Name, p.State, p.Error)
		}
	}
	return err
}

// rescueTool is one of stage 1's commands, or its shell on this terminal.
func rescueTool(ctx context.Context, args []string) error {
	box := rescue.Box{Root: "/", System: rescue.Kernel{EndBy: func(off bool) error {
		verb := "reboot"
		if off {
			verb = "poweroff"
		}
		_, err := pid1.Ask(node.InitRequest{Verb: verb})
		return err
	}}}
	if len(args) > 0 {
		return rescue.Once(ctx, box, args)
	}
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("start a shell on this terminal: %w", err)
	}
	defer tty.Close()
	return rescue.OnTerminal(ctx, &rescue.Shell{Box: box, Env: os.Environ()}, tty, 0)
}
