package e2e

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"joist/test/node"
)

// sshKey is the key whose public half the tests' answer file holds. It is made
// once and kept beside the installed disks.
func sshKey(t testing.TB) ssh.Signer {
	t.Helper()
	dir := cacheDir(t, "")
	key, err := theKey(filepath.Join(dir, "id_ed25519"))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

var keyLock sync.Mutex

func theKey(path string) (ssh.Signer, error) {
	keyLock.Lock()
	defer keyLock.Unlock()
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if text, err = newKey(); err == nil {
			err = os.WriteFile(path, text, 0o600)
		}
	}
	if err != nil {
		return nil, err
	}
	return ssh.ParsePrivateKey(text)
}

func newKey() ([]byte, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	block, err := ssh.MarshalPrivateKey(key, "joist test")
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(block), nil
}

// connect opens the connection, or uses the one that is open.
func (n *runningNode) connect(ctx context.Context, t testing.TB) (*ssh.Client, error) {
	if n.ssh != nil {
		return n.ssh, nil
	}
	addr := net.JoinHostPort(n.IP, "22")
	conn, err := n.LAN.Dial(ctx, "tcp", addr)
	// The API may answer before sshd does: at a first boot it makes its key.
	for end := time.Now().Add(time.Minute); err != nil; conn, err = n.LAN.Dial(ctx, "tcp", addr) {
		if time.Now().After(end) || ctx.Err() != nil {
			return nil, err
		}
		time.Sleep(time.Second)
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	c, chans, reqs, err := ssh.NewClientConn(conn, addr, &ssh.ClientConfig{
		User: "root", Auth: []ssh.AuthMethod{ssh.PublicKeys(sshKey(t))}, HostKeyCallback: n.checkHost,
		HostKeyAlgorithms: []string{ssh.KeyAlgoED25519}, // of three
	})
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("log in by SSH: %w", err)
	}
	n.ssh = ssh.NewClient(c, chans, reqs)
	return n.ssh, nil
}

// checkHost trusts the first key; the node must keep it over restarts.
func (n *runningNode) checkHost(_ string, _ net.Addr, key ssh.PublicKey) error {
	if n.hostKey == nil {
		n.hostKey = key
	}
	if !bytes.Equal(n.hostKey.Marshal(), key.Marshal()) {
		return errors.New("the node's SSH host key has changed")
	}
	return nil
}

func (n *runningNode) closeSSH() {
	if n.ssh != nil {
		n.ssh.Close()
		n.ssh = nil
	}
}

// session opens a session, on a new connection if the one that is open turns out
// to be broken.
func (n *runningNode) session(ctx context.Context, t testing.TB) (*ssh.Session, error) {
	for old := n.ssh != nil; ; old = false {
		c, err := n.connect(ctx, t)
		if err != nil {
			return nil, err
		}
		s, err := c.NewSession()
		if err == nil {
			return s, nil
		}
		n.closeSSH()
		if !old {
			return nil, fmt.Errorf("open SSH session: %w", err)
		}
		t.Logf("the SSH connection to %s was broken: %v", n.Name, err)
	}
}

// try runs a bash script on the node. A connection that breaks meanwhile is
// opened anew the next time.
func (n *runningNode) try(ctx context.Context, t testing.TB, script string) (string, error) {
	s, err := n.session(ctx, t)
	if err != nil {
		return "", err
	}
	defer s.Close()
	c := n.ssh
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	var out, said bytes.Buffer
	s.Stdin = strings.NewReader("export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C\n" + script + "\n")
	s.Stdout, s.Stderr = &out, &said
	err = s.Run("/bin/bash -s")
	var status *ssh.ExitError
	if err != nil && !errors.As(err, &status) {
		n.closeSSH()
	}
	if err != nil {
		return out.String(), fmt.Errorf("run on the node: %w\n%s\n%s", err, script, said.String())
	}
	return out.String(), nil
}

// explain has what the node itself wrote last be printed if the test fails.
func (n *runningNode) explain(t *testing.T) {
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		out, err := n.try(ctx, t, `cat /proc/uptime /proc/loadavg; dmesg | tail -n 6; cd /var/log/joist; for f in joistd sshd; do tail -n 8 $f.log; done`)
		t.Logf("the node says: %v\n%s", err, out)
	})
}

// run is try for what must work, within two minutes.
func (n *runningNode) run(t testing.TB, script string) string {
	t.Helper()
	out, err := n.try(within(t, 2*time.Minute), t, script)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// lines is run for a list.
func (n *runningNode) lines(t testing.TB, script string) []string {
	t.Helper()
	return nonEmpty(n.run(t, script))
}

func nonEmpty(text string) []string {
	var out []string
	for l := range strings.Lines(text) {
		if l = strings.TrimSpace(l); l != "" {
			out = append(out, l)
		}
	}
	return out
}

// bootID names the node's present boot (random(4)).
func (n *runningNode) bootID(t testing.TB) string {
	t.Helper()
	return strings.TrimSpace(n.run(t, "cat /proc/sys/kernel/random/boot_id"))
}

// awaitBoot waits until the node runs in another boot than before and logs in.
func (n *runningNode) awaitBoot(t testing.TB, before string) {
	t.Helper()
	n.closeSSH()
	ctx := within(t, 2*node.BootTime)
	for {
		try, cancel := context.WithTimeout(ctx, 30*time.Second)
		if ip, ok := n.LAN.Lease(n.MAC); ok {
			n.IP = ip.String()
		}
		now, err := n.try(try, t, "cat /proc/sys/kernel/random/boot_id")
		cancel()
		if err == nil && strings.TrimSpace(now) != before {
			n.login(t)
			return
		}
		n.closeSSH()
		select {
		case <-ctx.Done():
			t.Fatalf("the node did not start again: %v; last: %v", ctx.Err(), err)
		case <-time.After(2 * time.Second):
		}
	}
}

// process is one process of the node; those of containers are among them.
type process struct {
	pid     int
	command string // arguments, separated by spaces
}

// processes lists those whose command matches. It needs nothing but bash and tr:
// the image has no procps.
func (n *runningNode) processes(t testing.TB, re string) []process {
	t.Helper()
	x := regexp.MustCompile(re)
	var out []process
	for _, l := range n.lines(t, `for p in /proc/[0-9]*; do
  [ "${p#/proc/}" = $$ ] && continue
  c=$(tr '\0\n' '  ' <$p/cmdline) && [ -n "$c" ] && echo "${p#/proc/} $c"
done 2>/dev/null; true`) {
		id, command, _ := strings.Cut(l, " ")
		pid, err := strconv.Atoi(id)
		if command = strings.TrimSpace(command); err == nil && x.MatchString(command) {
			out = append(out, process{pid, command})
		}
	}
	return out
}

// process is processes for what must be there once. A child has the command line
// of its parent until it runs its own program, so that two are looked at again.
func (n *runningNode) process(t testing.TB, re string) process {
	t.Helper()
	list := n.processes(t, re)
	if len(list) > 1 {
		t.Logf("processes that match %q: %+v", re, list)
		list = n.processes(t, re)
	}
	if len(list) != 1 {
		t.Fatalf("processes that match %q: %+v, want one", re, list)
	}
	return list[0]
}

// kill ends a process with signal 9 and returns the moment it was sent.
func (n *runningNode) kill(t testing.TB, pid int) time.Time {
	t.Helper()
	n.run(t, fmt.Sprintf("kill -9 %d", pid))
	return time.Now()
}

const daemonCommand = `^/usr/sbin/joistd serve`
