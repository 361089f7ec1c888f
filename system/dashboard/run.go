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
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"joist/api/node"
	"joist/system/array"
	"joist/system/console"
	"joist/system/crash"
	"joist/system/pool"
)

const every = 2 * time.Second

// Run shows the dashboard on the terminal ("/dev/tty1", "ttyS0") until ctx
// ends or the terminal is gone. When somebody presses Enter the process
// becomes a log-in there, with the session and the controlling terminal that
// PID 1 gave it; PID 1 starts the dashboard again when that ends.
func Run(ctx context.Context, ttyPath string) error {
	if !strings.HasPrefix(ttyPath, "/") {
		ttyPath = "/dev/" + ttyPath
	}
	t, err := os.OpenFile(ttyPath, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return fmt.Errorf("open terminal: %w", err)
	}
	defer t.Close()
	console.Cooked(int(t.Fd()), false)
	defer console.Cooked(int(t.Fd()), true)
	size := func() (cols, rows int) {
		// A serial line says 0 x 0.
		if ws, err := unix.IoctlGetWinsize(int(t.Fd()), unix.TIOCGWINSZ); err == nil && ws.Col > 0 && ws.Row > 0 {
			return int(ws.Col), int(ws.Row)
		}
		return Cols, Rows
	}
	enter, err := show(ctx, &screen{w: t, text: serial(ttyPath)}, pressed(t), size, func() State { return Gather("/") })
	if err != nil {
		return fmt.Errorf("write to %s: %w", ttyPath, err)
	}
	if enter {
		return logIn(t)
	}
	return nil
}

// show draws until ctx ends or, true, Enter is pressed.
func show(ctx context.Context, sc *screen, enter <-chan struct{}, size func() (cols, rows int), gather func() State) (bool, error) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		cols, rows := size()
		if err := sc.show(gather(), cols, rows); err != nil {
			return false, err
		}
		select {
		case <-ctx.Done():
			return false, nil
		case <-enter:
			return true, nil
		case <-tick.C:
		}
	}
}

// pressed reports Enter once. It reads no further: the rest is the log-in's.
func pressed(r io.Reader) <-chan struct{} {
	c := make(chan struct{}, 1)
	go func() {
		b := make([]byte, 1)
		for {
			n, err := r.Read(b)
			if err != nil {
				return // the terminal is gone; writing to it says so
			}
			if n == 1 && (b[0] == '\n' || b[0] == '\r') {
				c <- struct{}{}
				return
			}
		}
	}()
	return c
}

// login is util-linux' login(1). It asks for the name, delays and logs wrong
// passwords through PAM, and takes the terminal from whoever else has it.
const login = "/bin/login"

// logIn becomes login(1), which finds its terminal on descriptors 0 to 2.
func logIn(t *os.File) error {
	console.Cooked(int(t.Fd()), true)
	if _, err := io.WriteString(t, "\r\n"); err != nil {
		return fmt.Errorf("begin log-in: %w", err)
	}
	for fd := range 3 {
		if err := unix.Dup3(int(t.Fd()), fd, 0); err != nil {
			return fmt.Errorf("begin log-in: %w", err)
		}
	}
	err := syscall.Exec(login, []string{"login"}, os.Environ())
	return fmt.Errorf("begin log-in: run %s: %w", login, err)
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
	if s.Node.Storage.ArrayUUID != "" {
		s.Disks = array.Problem(root + "/sys")
	}
	if s.Node.Storage.PoolGUID != "" {
		s.Disks = pool.Problem(root+"/proc", s.Node.Storage.PoolName)
	}
	s.Crashes = crash.Problem(root + node.CrashDir)
	load(root+node.NetState, &s.Net)
	load(root+node.APIState, &s.API)
	load(root+node.AlertFile, &s.Alerts)
	load(root+node.FirstBootState, &s.First)
	if reply, err := ask(root + node.InitSocket); err != nil {
		s.InitErr = err.Error()
	} else {
		s.Services, s.Phases = reply.Services, reply.Phases
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
