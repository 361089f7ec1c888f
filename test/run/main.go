// Command run is `make run`: it installs the image in build/ without a hand on
// the keyboard into a virtual machine, starts the node and leaves its API on
// https://localhost:8006 until Ctrl-C. The installed disk stays in build/run
// and is used again; FRESH=1 installs anew.
package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"joist/test/node"
	"joist/test/vm"
)

const (
	apiAddress = "127.0.0.1:8006"
	apiURL     = "https://localhost:8006"
	nodeName   = "node1"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends at once
	if err := run(ctx); err != nil && ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, "make run:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	root, err := vm.Root()
	if err != nil {
		return err
	}
	if err := portFree(apiAddress); err != nil {
		return err
	}
	p := places{near(filepath.Join(root, "build", "run"))}
	if err := os.MkdirAll(p.dir, 0o700); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	password, err := p.installed()
	switch {
	case err != nil:
		return err
	case password == "" || os.Getenv("FRESH") == "1":
		if password, err = install(ctx, p); err != nil {
			return err
		}
	default:
		fmt.Printf("using the node that is installed in %s (make run FRESH=1 installs anew)\n", p.disk())
	}
	return serve(ctx, p, password)
}

// near is a path as it is best read from where we are.
func near(path string) string {
	if wd, err := os.Getwd(); err == nil {
		if rel, err := filepath.Rel(wd, path); err == nil && !strings.HasPrefix(rel, "..") {
			return rel
		}
	}
	return path
}

// portFree finds out before minutes of work what would fail after them.
func portFree(addr string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("port 8006 is in use; stop what listens there: %w", err)
	}
	return l.Close()
}

// places are the files that outlive a run.
type places struct{ dir string }

func (p places) disk() string     { return filepath.Join(p.dir, "disk.qcow2") }
func (p places) password() string { return filepath.Join(p.dir, "password") }
func (p places) kernel() string   { return filepath.Join(p.dir, "vmlinuz") }
func (p places) env() string      { return filepath.Join(p.dir, "env") }
func (p places) log() string      { return filepath.Join(p.dir, "install.log") }

// installed returns the password of the node on the disk, "" without a disk.
func (p places) installed() (string, error) {
	if _, err := os.Stat(p.disk()); errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	b, err := os.ReadFile(p.password())
	if err != nil {
		return "", fmt.Errorf("read the password of the installed node (make run FRESH=1 installs anew): %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// machine is the node's hardware; user is for QEMU's own NAT, so that guests
// of the node reach the Internet and this machine reaches the node.
func machine(ctx context.Context, p places, user string) vm.Config {
	accel, why := vm.Accelerate(ctx, p.kernel())
	fmt.Printf("the machine runs by %s: %s\n", accel, why)
	return vm.Config{Name: nodeName, Memory: node.Memory, Accel: accel, NICs: []vm.NIC{{User: user}}}
}

// install makes a new disk. It takes the old one's place when it is complete.
func install(ctx context.Context, p places) (password string, err error) {
	iso, err := node.FindISO()
	if err != nil {
		return "", err
	}
	disk := p.disk() + ".new"
	for _, old := range []string{p.disk(), disk, p.kernel()} {
		if err := os.Remove(old); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("remove earlier run: %w", err)
		}
	}
	if err := vm.CreateDisk(ctx, disk, node.DiskSize); err != nil {
		return "", err
	}
	if err := vm.ExtractFile(ctx, iso, "/boot/vmlinuz", p.kernel()); err != nil {
		return "", err
	}
	log, err := os.Create(p.log())
	if err != nil {
		return "", fmt.Errorf("install: %w", err)
	}
	defer log.Close()
	start := time.Now()
	fmt.Printf("[started]  install %s into %s (whole console: %s)\n", filepath.Base(iso), p.disk(), p.log())
	ctx, cancel := context.WithTimeout(ctx, node.InstallTime)
	defer cancel()
	c := machine(ctx, p, "restrict=on")
	c.Said = &steps{to: os.Stdout}
	password = rand.Text()[:16]
	if err := node.Install(ctx, c, iso, disk, node.Answer(nodeName+".example.com", password), log); err != nil {
		return "", fmt.Errorf("%w (whole console: %s)", err, p.log())
	}
	fmt.Printf("[finished] install (%s)\n", time.Since(start).Round(time.Second))
	if err := os.WriteFile(p.password(), []byte(password+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("keep password: %w", err)
	}
	if err := os.Rename(disk, p.disk()); err != nil {
		return "", fmt.Errorf("keep disk: %w", err)
	}
	return password, nil
}
