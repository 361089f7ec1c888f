package dashboard

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"joist/api/node"
)

const every = 2 * time.Second

// Run shows the dashboard on the terminal ("/dev/tty1", "ttyS0") until ctx
// ends or the terminal is gone.
func Run(ctx context.Context, ttyPath string) error {
	if !strings.HasPrefix(ttyPath, "/") {
		ttyPath = "/dev/" + ttyPath
	}
	t, err := os.OpenFile(ttyPath, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return fmt.Errorf("open terminal: %w", err)
	}
	defer t.Close()
	sc := screen{w: t, text: serial(ttyPath)}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		cols, rows := Cols, Rows
		// A serial line says 0 x 0.
		if ws, err := unix.IoctlGetWinsize(int(t.Fd()), unix.TIOCGWINSZ); err == nil && ws.Col > 0 && ws.Row > 0 {
			cols, rows = int(ws.Col), int(ws.Row)
		}
		if err := sc.show(Gather("/"), cols, rows); err != nil {
			return fmt.Errorf("write to %s: %w", ttyPath, err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// serial reports a terminal that is not one of the kernel's own: it may be a
// log file or a person far away, and is not redrawn for numbers that move.
func serial(path string) bool {
	n, ok := strings.CutPrefix(path, "/dev/tty")
	return !ok || n == "" || strings.Trim(n, "0123456789") != ""
}

// screen remembers what is shown.
type screen struct {
	w    io.Writer
	text bool
	last string
}

func (s *screen) show(st State, cols, rows int) error {
	if s.text {
		// Moving numbers do not count as news.
		key := st
		key.Load, key.MemUsed = 0, 0
		calm := Render(key, cols, rows)
		if calm == s.last {
			return nil
		}
		s.last = calm
		_, err := io.WriteString(s.w, "\n"+Render(st, cols, rows))
		return err
	}
	now := Render(st, cols, rows)
	if now == s.last {
		return nil
	}
	s.last = now
	// Home, each line with "erase to its end", then erase what is below:
	// no flicker of an empty screen (VT100: CUP, EL, ED).
	_, err := io.WriteString(s.w, "\x1b[H"+strings.ReplaceAll(now, "\n", "\x1b[K\n")+"\x1b[J")
	return err
}

// Gather reads the state below root. What cannot be read is left empty; the
// picture says so.
func Gather(root string) State {
	s := State{Version: "unknown"}
	var build struct {
		Version string `json:"version"`
	}
	if load(root+"/usr/lib/joist/build.json", &build) && build.Version != "" {
		s.Version = build.Version
	}
	s.Node, _ = node.Load(root)
	load(root+node.NetState, &s.Net)
	load(root+node.APIState, &s.API)
	if reply, err := ask(root + node.InitSocket); err != nil {
		s.InitErr = err.Error()
	} else {
		s.Services = reply.Services
	}
	machine(root, &s)
	return s
}

func load(file string, v any) bool {
	b, err := os.ReadFile(file)
	return err == nil && json.Unmarshal(b, v) == nil
}

// ask gets the services' states from PID 1.
func ask(socket string) (reply node.InitReply, err error) {
	c, err := net.DialTimeout("unix", socket, time.Second)
	if err != nil {
		return reply, errors.New("PID 1 does not answer")
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(2 * time.Second))
	if err := json.NewEncoder(c).Encode(node.InitRequest{Verb: "status"}); err != nil {
		return reply, err
	}
	if err := json.NewDecoder(c).Decode(&reply); err != nil {
		return reply, err
	}
	if !reply.OK {
		return reply, errors.New(reply.Error)
	}
	return reply, nil
}

// machine reads load and memory from proc(5).
func machine(root string, s *State) {
	if b, err := os.ReadFile(root + "/proc/loadavg"); err == nil {
		first, _, _ := strings.Cut(string(b), " ")
		s.Load, _ = strconv.ParseFloat(first, 64)
	}
	if b, err := os.ReadFile(root + "/proc/meminfo"); err == nil {
		kib := func(key string) int64 {
			_, rest, _ := strings.Cut(string(b), key+":")
			f := strings.Fields(rest)
			if len(f) == 0 {
				return 0
			}
			n, _ := strconv.ParseInt(f[0], 10, 64)
			return n << 10
		}
		s.MemTotal = kib("MemTotal")
		s.MemUsed = s.MemTotal - kib("MemAvailable")
	}
	if b, err := os.ReadFile(root + "/proc/stat"); err == nil {
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line)
			switch {
			case len(f) == 2 && f[0] == "btime":
				sec, _ := strconv.ParseInt(f[1], 10, 64)
				s.Booted = time.Unix(sec, 0).Format("2006-01-02 15:04")
			case len(f) > 0 && strings.HasPrefix(f[0], "cpu") && f[0] != "cpu":
				s.CPUs++
			}
		}
	}
}
