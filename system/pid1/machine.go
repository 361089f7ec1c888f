package pid1

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"joist/system/proc"
	"joist/system/service"
	"joist/system/svclog"
)

const notifyDir = "/run/joist/notify"

// machine is supervise.Machine on the real one.
type machine struct {
	procs *proc.Table

	mu   sync.Mutex
	logs map[string]*svclog.Log
	dir  string // where logs lie, "" while there is no disk
}

func newMachine(t *proc.Table) *machine {
	return &machine{procs: t, logs: map[string]*svclog.Log{}}
}

// Log returns the service's log.
func (m *machine) Log(name string) *svclog.Log {
	m.mu.Lock()
	defer m.mu.Unlock()
	l := m.logs[name]
	if l == nil {
		l = svclog.New(name, time.Now)
		m.logs[name] = l
		if m.dir != "" {
			l.Open(m.dir) // without a file it stays in memory
		}
	}
	return l
}

// openLogs moves all logs to the disk.
func (m *machine) openLogs(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.dir = dir
	for _, l := range m.logs {
		if err := l.Open(dir); err != nil {
			return err
		}
	}
	return nil
}

// closeLogs lets the disk go.
func (m *machine) closeLogs() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.dir = ""
	for _, l := range m.logs {
		l.Close()
	}
}

func (m *machine) Spawn(s service.Spec, ready func(), ended func(bool, string)) (int, error) {
	for _, d := range s.Detach {
		unix.Unmount(d, unix.MNT_DETACH)
	}
	group, err := openGroup(s)
	if err != nil {
		return 0, fmt.Errorf("make cgroup of %s: %w", s.Name, err)
	}
	defer group.Close()
	a := proc.Attr{Path: s.Argv[0], Argv: s.Argv, Env: append(proc.Env(), s.Env...), Cgroup: group}
	stop := func() {}
	if s.Notify {
		socket, err := listenNotify(s.Name, ready)
		if err != nil {
			return 0, err
		}
		stop = func() { socket.Close() }
		a.Env = append(a.Env, "NOTIFY_SOCKET="+filepath.Join(notifyDir, s.Name))
	}
	log := m.Log(s.Name)
	closeOurs, copyLog, err := attach(&a, s, log)
	if err != nil {
		stop()
		return 0, err
	}
	pid, exit, err := m.procs.Start(a)
	closeOurs()
	if err != nil {
		stop()
		log.Line("not started: " + err.Error())
		return 0, err
	}
	// Not inherited from PID 1, which keeps the default for what it runs.
	os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), []byte(strconv.Itoa(s.OOM)), 0)
	go copyLog()
	go func() {
		e := <-exit
		stop()
		log.Line("ended: " + e.String())
		ended(e.OK(), e.String())
	}()
	return pid, nil
}

// attach gives the process its descriptors: a terminal, or a pipe to the log.
func attach(a *proc.Attr, s service.Spec, log *svclog.Log) (closeOurs, copyLog func(), err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	copyLog = func() { log.Copy(r); r.Close() }
	if s.TTY == "" {
		a.Files = []*os.File{nil, w, w}
		return func() { w.Close() }, copyLog, nil
	}
	tty, err := os.OpenFile("/dev/"+s.TTY, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		r.Close()
		w.Close()
		return nil, nil, err
	}
	// Errors go to the log: on the screen the next picture would hide them.
	a.Files, a.TTY = []*os.File{tty, tty, w}, true
	a.Env = append(a.Env, "TERM="+term(s.TTY))
	return func() { tty.Close(); w.Close() }, copyLog, nil
}

// term is the terminal type of a console: the kernel's own on virtual
// terminals, the least common one on a line.
func term(tty string) string {
	if n := strings.TrimPrefix(tty, "tty"); n != tty && strings.Trim(n, "0123456789") == "" {
		return "linux"
	}
	return "vt220"
}

// listenNotify takes sd_notify(3) datagrams. Only root can reach the folder.
func listenNotify(name string, ready func()) (*net.UnixConn, error) {
	path := filepath.Join(notifyDir, name)
	os.Remove(path)
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("listen for readiness of %s: %w", name, err)
	}
	go func() {
		b := make([]byte, 4096)
		for {
			n, err := c.Read(b)
			if err != nil {
				return
			}
			for line := range strings.Lines(string(b[:n])) {
				if strings.TrimSpace(line) == "READY=1" {
					ready()
				}
			}
		}
	}()
	return c, nil
}

func (m *machine) Terminate(_ service.Spec, pid int) { m.procs.Signal(pid, unix.SIGTERM) }

func (m *machine) Kill(s service.Spec) { killGroup(groupOf(s.Name)) }

func (m *machine) After(d time.Duration, f func()) func() {
	t := time.AfterFunc(d, f)
	return func() { t.Stop() }
}

func (m *machine) Now() time.Time { return time.Now() }
