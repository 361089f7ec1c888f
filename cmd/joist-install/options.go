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
	unattended, planOnly             bool
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
	if fs.NArg() > 0 || o.command != "run" && o.command != "check" && o.command != "plan" {
		return o, fmt.Errorf("unknown command or argument: want run, check or plan")
	}
	return o, nil
}
