package main

import (
	"flag"
	"fmt"
)

// Exit statuses.
const (
	exitOK       = 0
	exitFailed   = 1 // something went wrong while working
	exitFindings = 2 // findings stop the work; nothing was written
	exitUsage    = 64
)

// options are the command line.
type options struct {
	command, consoles, answer, facts string
	argument                         string // of slot
	unattended, planOnly             bool
}

// arguments is the number of a command's arguments.
func arguments(command string) (n int, known bool) {
	switch command {
	case "run", "check", "plan", "password", "boot", "enrol":
		return 0, true
	case "slot":
		return 1, true
	}
	return 0, false
}

func parse(args []string) (options, error) {
	o := options{command: "run"}
	if len(args) > 0 && args[0] != "" && args[0][0] != '-' {
		o.command, args = args[0], args[1:]
	}
	fs := flag.NewFlagSet("joist-install "+o.command, flag.ContinueOnError)
	fs.StringVar(&o.consoles, "consoles", "", "comma-separated `names` of terminals below /dev; default: this one")
	fs.BoolVar(&o.unattended, "unattended", false, "take the answer file; ask nothing")
	fs.BoolVar(&o.planOnly, "plan", false, "show the plan and stop")
	fs.StringVar(&o.answer, "answer", "", "answer `file`; default: searched on the medium and on labelled volumes")
	fs.StringVar(&o.facts, "facts", "", "plan for the machine that this JSON `file` describes, as check prints it")
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	want, known := arguments(o.command)
	if !known || fs.NArg() != want {
		return o, fmt.Errorf("unknown command or argument: want run, check, plan, password, slot A|B, boot or enrol")
	}
	o.argument = fs.Arg(0)
	return o, nil
}
