package stage1

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"joist/system/cmdline"
	"joist/system/rescue"
)

// offer is what a person gets when stage 1 cannot go on.
type offer struct {
	wait time.Duration // for somebody to press Enter, 0: for ever
	idle time.Duration // how long the shell waits for the next line, 0: for ever
	text string
}

// offerIn says what is offered in a mode. A node may have nobody in front of
// it, and a serial line that echoes looks like somebody: what is left alone
// restarts, so that the loader counts its tries and takes the other slot.
func offerIn(m cmdline.Mode) offer {
	switch m {
	case cmdline.Node:
		return offer{30 * time.Second, 15 * time.Minute, "Press Enter within 30 s for a rescue shell, or the machine restarts"}
	case cmdline.Install:
		return offer{60 * time.Second, 0, "Press Enter within 60 s for a rescue shell, or the machine restarts"}
	}
	return offer{0, 0, "Press Enter for a rescue shell; leaving it restarts the machine"}
}

// fail shows what went wrong, offers a shell and restarts the machine.
func (b *boot) fail(err error) {
	hint := "start again; if it stays so, start the other slot or the medium's rescue entry from the boot menu"
	var p *problem
	if errors.As(err, &p) {
		hint = p.hint
	}
	o := offerIn(b.opt.Mode)
	fmt.Fprintf(b.screens, "\n*** Joist cannot start: stage 1, %v\n*** What to do: %s.\n*** %s.\n\n", err, hint, o.text)
	b.screens.Flush(time.Second)
	go b.feed()
	ctx, cancel := context.WithCancel(context.Background())
	if o.wait > 0 {
		ctx, cancel = context.WithTimeout(context.Background(), o.wait)
	}
	tty, somebody := b.screens.Enter(ctx)
	cancel()
	if somebody {
		if err := shell(tty, o.idle); err != nil {
			fmt.Fprintf(b.screens, "\n*** The rescue shell has ended: %v\n", err)
		}
	}
	b.screens.Flush(time.Second)
	unix.Sync()
	unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	select {} // never return: the kernel would panic
}

// feed keeps an armed watchdog from ending what a person does.
func (b *boot) feed() {
	for {
		b.dog.Feed()
		time.Sleep(5 * time.Second)
	}
}

// shell runs the rescue shell on a console.
func shell(console string, idle time.Duration) error {
	tty, err := rescue.TakeTerminal("/dev/" + console)
	if err != nil {
		return err
	}
	defer tty.Close()
	if err := os.MkdirAll("/tmp", 0o755); err != nil {
		return err
	}
	fmt.Fprint(tty, "\nRescue shell of stage 1. \"help\" lists commands, \"cat "+bootLog+"\" shows what happened, \"exit\" restarts.\n")
	sh := &rescue.Shell{Box: rescue.Box{System: rescue.Kernel{}, Root: "/"}, Dir: "/",
		Env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/", "TMPDIR=/tmp"}}
	return rescue.OnTerminal(context.Background(), sh, tty, idle)
}
