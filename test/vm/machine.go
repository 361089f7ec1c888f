package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"time"
)

const qemuBinary = "qemu-system-x86_64"

// Machine is a running QEMU.
type Machine struct {
	Config   Config // complete: defaults filled in
	serial   []*Console
	mon      *monitor
	pid      int
	done     chan struct{}
	err      error // of the process; valid after done
	stderr   *os.File
	logs     []*os.File
	ownsDir  bool
	listener []net.Listener
}

// Start runs a machine; ctx bounds the start only.
func Start(ctx context.Context, c Config) (*Machine, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	m := &Machine{Config: c, done: make(chan struct{})}
	if err := m.start(ctx); err != nil {
		m.Kill()
		return nil, fmt.Errorf("start machine %q: %w", c.Name, err)
	}
	return m, nil
}

func (m *Machine) start(ctx context.Context) error {
	if err := m.prepare(ctx); err != nil {
		close(m.done)
		return err
	}
	consoles, monitors, err := m.listen()
	if err != nil {
		close(m.done)
		return err
	}
	started := make(chan error, 1)
	go m.exec(started)
	if err := <-started; err != nil {
		return err
	}
	for i, l := range consoles {
		go func() {
			if conn, err := l.Accept(); err == nil {
				m.serial[i].attach(conn)
			}
		}()
	}
	conn, err := m.accept(ctx, monitors)
	if err != nil {
		return err
	}
	if m.mon, err = newMonitor(ctx, conn); errors.Is(err, ErrEnded) {
		<-m.done
		return m.ended()
	}
	return err
}

// ended is the error for a QEMU that refused its arguments.
func (m *Machine) ended() error {
	b, err := os.ReadFile(m.stderr.Name())
	if err != nil {
		return err
	}
	_, said, _ := strings.Cut(string(b), "\n") // the first line is the command
	return fmt.Errorf("%w at once: %s", ErrEnded, strings.TrimSpace(said))
}

// cpus is how many a machine gets that did not say. QEMU's software CPUs see
// code that another of them patches too late now and then (seen with 7.2): the
// kernel of a node dies of a stale breakpoint in kvm_arch_vcpu_ioctl_run, where
// static keys change while guests switch their APIC. One CPU has no other.
func cpus(asked int, a Accel) int {
	switch {
	case asked > 0:
		return asked
	case a == TCG:
		return 1
	}
	return 2
}

// prepare makes the folder, the logs and the variable store.
func (m *Machine) prepare(ctx context.Context) (err error) {
	c := &m.Config
	if c.Dir == "" {
		if c.Dir, err = os.MkdirTemp("", "joist-vm-"); err != nil {
			return err
		}
		m.ownsDir = true
	}
	if c.Accel == Auto {
		c.Accel, _ = Accelerate(ctx, c.Kernel)
	}
	c.CPUs = cpus(c.CPUs, c.Accel)
	if c.Firmware != SeaBIOS && c.Vars == "" {
		c.Vars = filepath.Join(c.Dir, "vars.fd")
	}
	if c.Firmware != SeaBIOS {
		if err := copyOnce(c.Firmware.vars(), c.Vars); err != nil {
			return err
		}
	}
	if m.stderr, err = m.createLog("qemu.log"); err != nil {
		return err
	}
	for i := range c.Serials {
		f, err := m.createLog(fmt.Sprintf("serial%d.log", i))
		if err != nil {
			return err
		}
		m.serial = append(m.serial, newConsole(fmt.Sprintf("%s serial%d", c.Name, i), f))
	}
	m.serial[0].said = c.Said
	return nil
}

func (m *Machine) createLog(name string) (*os.File, error) {
	f, err := os.Create(m.Config.socket(name))
	if err == nil {
		m.logs = append(m.logs, f)
	}
	return f, err
}

// listen opens the sockets before QEMU starts and connects to them: nothing
// that a guest says is lost.
func (m *Machine) listen() (consoles []net.Listener, qmp net.Listener, err error) {
	open := func(name string) (net.Listener, error) {
		path := m.Config.socket(name)
		os.Remove(path) // of an earlier machine in the same folder
		l, err := net.Listen("unix", path)
		if err == nil {
			m.listener = append(m.listener, l)
		}
		return l, err
	}
	for i := range m.Config.Serials {
		l, err := open(fmt.Sprintf("serial%d", i))
		if err != nil {
			return nil, nil, err
		}
		consoles = append(consoles, l)
	}
	qmp, err = open("qmp")
	return consoles, qmp, err
}

// exec runs QEMU to its end. The thread is locked because Pdeathsig follows
// the thread that started the process, not the program (prctl(2)).
func (m *Machine) exec(started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(m.done)
	cmd := exec.Command(qemuBinary, m.Config.args()...)
	cmd.Stdout, cmd.Stderr = m.stderr, m.stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	fmt.Fprintf(m.stderr, "%s\n", strings.Join(cmd.Args, " "))
	if err := cmd.Start(); err != nil {
		started <- err
		return
	}
	m.pid = cmd.Process.Pid
	started <- nil
	m.err = cmd.Wait()
}

func (m *Machine) accept(ctx context.Context, l net.Listener) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	ch := make(chan result, 1)
	go func() {
		conn, err := l.Accept()
		ch <- result{conn, err}
	}()
	select {
	case r := <-ch:
		return r.conn, r.err
	case <-m.done:
		return nil, m.ended()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Serial is the i-th serial port.
func (m *Machine) Serial(i int) *Console { return m.serial[i] }

// WaitFor waits for a text on the first serial port. When it does not come the
// error says what the CPUs do, so that a guest that waits and one that stands
// still can be told apart.
func (m *Machine) WaitFor(ctx context.Context, re string) ([]string, error) {
	x, err := regexp.Compile(re)
	if err != nil {
		return nil, fmt.Errorf("wait for %q: %w", re, err)
	}
	found, err := m.serial[0].WaitFor(ctx, x)
	if err != nil && m.Running() {
		err = fmt.Errorf("%w\nits CPUs: %s", err, m.cpuState())
	}
	return found, err
}

// Wait waits for QEMU's end.
func (m *Machine) Wait(ctx context.Context) error {
	select {
	case <-m.done:
		return m.err
	case <-ctx.Done():
		return fmt.Errorf("wait for end of machine %q: %w", m.Config.Name, ctx.Err())
	}
}

// Running reports whether QEMU still runs.
func (m *Machine) Running() bool {
	select {
	case <-m.done:
		return false
	default:
		return true
	}
}

// Kill ends the machine as a power cut does (what the guest wrote is kept:
// the host's page cache outlives QEMU) and lets go of everything. It may be
// called more than once.
func (m *Machine) Kill() error {
	if m.pid != 0 && m.Running() {
		if err := syscall.Kill(-m.pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("kill machine %q: %w", m.Config.Name, err)
		}
	}
	<-m.done
	for _, l := range m.listener {
		l.Close()
	}
	if m.mon != nil {
		m.mon.conn.Close()
	}
	for _, c := range m.serial {
		c.Close()
	}
	for _, f := range m.logs {
		f.Close()
	}
	m.logs, m.listener = nil, nil
	return nil
}

// Remove deletes the machine's folder if Start made it.
func (m *Machine) Remove() error {
	if !m.ownsDir {
		return nil
	}
	return os.RemoveAll(m.Config.Dir)
}

// Logs are the paths of what the machine and QEMU said.
func (m *Machine) Logs() []string {
	files, _ := filepath.Glob(filepath.Join(m.Config.Dir, "*.log")) // a constant pattern cannot be malformed
	return files
}

const monitorTimeout = 30 * time.Second

func copyOnce(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("open firmware (Debian package ovmf): %w", err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}
