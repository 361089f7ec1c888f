package pid1

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"joist/system/proc"
)

const (
	installer = "/usr/sbin/joist-install"
	nextFile  = "/run/joist/next" // the installer's wish: "reboot", "poweroff" or "shell"
)

// install runs the installer on all consoles and does what it asks for.
func (s *system) install(ctx context.Context) {
	argv := []string{installer, "run", "--consoles", strings.Join(s.consoles, ",")}
	if s.opt.Answer != "" { // the installer reads there where to look
		argv = append(argv, "--unattended")
	}
	s.log.Printf("started   installer on %s", strings.Join(s.consoles, ", "))
	s.screens.Flush(time.Second)
	how, err := s.foreground(argv, nil)
	wish, _ := os.ReadFile(nextFile)
	switch next := strings.TrimSpace(string(wish)); {
	case err == nil && next == "reboot":
		s.end <- ending{why: "installed"}
	case err == nil && next == "poweroff":
		s.end <- ending{off: true, why: "installed"}
	default:
		if err != nil {
			how = err.Error()
		}
		fmt.Fprintf(s.screens, "\nThe installer has ended (%s). Here is a shell: \"joist-install\" starts it again, \"reboot\" restarts.\n", how)
		s.shells(ctx)
	}
}

// foreground runs one program with its messages in a log, and waits.
func (s *system) foreground(argv []string, tty *os.File) (how string, err error) {
	log := s.machine.Log(filepath.Base(argv[0]))
	r, w, err := os.Pipe()
	if err != nil {
		return "", err
	}
	a := proc.Attr{Path: argv[0], Argv: argv, Env: proc.Env(), Files: []*os.File{tty, w, w}}
	_, exit, err := s.procs.Start(a)
	w.Close()
	if err != nil {
		r.Close()
		return "", err
	}
	go func() { log.Copy(r); r.Close() }()
	e := <-exit
	if !e.OK() {
		return e.String(), fmt.Errorf("%s: %s", filepath.Base(argv[0]), e)
	}
	return e.String(), nil
}

// rescue gives every console a shell. Nothing is assembled or mounted by
// itself, unless the menu entry says so.
func (s *system) rescue(ctx context.Context) {
	fmt.Fprintf(s.screens, "\nJoist %s, rescue system. Nothing is activated or mounted.\n", version())
	for _, f := range Installed("/sys") {
		fmt.Fprintf(s.screens, "  found: %s\n", f)
	}
	if s.opt.RescueMount {
		c, cancel := context.WithTimeout(ctx, 2*time.Minute)
		err := RescueMount(c, s.run, func(l string) { fmt.Fprintln(s.screens, "  "+l) })
		cancel()
		if err != nil {
			fmt.Fprintf(s.screens, "  %v\n", err)
		}
		layout := nodeKeyboard(rescueDir + "/state/lib/joist/node/node.json")
		if s.opt.Keyboard == "" { // the command line is the latest word
			if err := quietly(SetKeymap(ctx, s.run, layout)); err != nil {
				fmt.Fprintf(s.screens, "  %v\n", err)
			}
		}
	} else {
		fmt.Fprintf(s.screens, "  \"joist-init rescue-mount\" shows its state, read-only, below %s.\n", rescueDir)
	}
	fmt.Fprintf(s.screens, "  \"joist-install password\" sets root's password, \"joist-install boot\" mends boot parts, \"joist-install slot A\" (or B) starts that.\n"+
		"  \"joist-init support\" writes a bundle of logs and facts.\n")
	fmt.Fprintf(s.screens, "  \"joist-init keymap LAYOUT\" sets the keyboard, \"joist-init rescue help\" lists commands for disks and modules.\n"+
		"  \"reboot\" and \"poweroff\" end this.\n\n")
	s.screens.Flush(time.Second)
	s.shells(ctx)
}

// shells keeps a shell on every console.
func (s *system) shells(ctx context.Context) {
	for _, c := range s.consoles {
		go func() {
			for ctx.Err() == nil {
				s.shell(ctx, c)
				sleep(ctx, time.Second)
			}
		}()
	}
}

// shell runs one log-in shell on a console and waits for its end.
func (s *system) shell(ctx context.Context, console string, env ...string) {
	tty, err := os.OpenFile("/dev/"+console, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		s.log.Printf("          open %s for a shell: %v", console, err)
		sleep(ctx, 30*time.Second)
		return
	}
	a := proc.Attr{Path: "/bin/bash", Argv: []string{"-bash"}, Dir: "/root", TTY: true,
		Env: append(append(proc.Env(), "TERM="+term(console)), env...), Files: []*os.File{tty, tty, tty}}
	if _, err := os.Stat(a.Dir); err != nil {
		a.Dir = "/"
	}
	_, exit, err := s.procs.Start(a)
	tty.Close()
	if err != nil {
		s.log.Printf("          start a shell on %s: %v", console, err)
		sleep(ctx, 30*time.Second)
		return
	}
	<-exit
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// powerButton switches the machine off when its button is pressed. It reads
// the kernel's input events (input.h: EV_KEY 1, KEY_POWER 116) from devices
// that the ACPI button driver made.
func (s *system) powerButton(ctx context.Context) {
	open := map[string]bool{}
	for ctx.Err() == nil {
		names, _ := filepath.Glob("/sys/class/input/event*/device/name")
		for _, n := range names {
			b, _ := os.ReadFile(n)
			dev := "/dev/input/" + filepath.Base(filepath.Dir(filepath.Dir(n)))
			if strings.TrimSpace(string(b)) != "Power Button" || open[dev] {
				continue
			}
			f, err := os.Open(dev)
			if err != nil {
				continue
			}
			open[dev] = true
			go s.watchButton(f)
		}
		sleep(ctx, 5*time.Second) // the driver may come later
	}
}

func (s *system) watchButton(f *os.File) {
	defer f.Close()
	// struct input_event: two longs of time, type, code, value.
	b := make([]byte, 24)
	for {
		if n, err := f.Read(b); err != nil || n != len(b) {
			return
		}
		le := binary.LittleEndian
		if le.Uint16(b[16:]) == 1 && le.Uint16(b[18:]) == 116 && le.Uint32(b[20:]) == 1 {
			s.end <- ending{off: true, why: "power button"}
		}
	}
}
