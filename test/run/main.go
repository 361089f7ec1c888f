// Command run is `make run`: it installs the image in build/ without a hand on
// the keyboard into a virtual machine, starts the node and leaves its API on
// https://localhost:8006 until Ctrl-C.
package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"joist/api/client"
	"joist/test/node"
	"joist/test/vm"
)

const apiAddress = "127.0.0.1:8006"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
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
	iso, err := node.FindISO()
	if err != nil {
		return err
	}
	if err := portFree(apiAddress); err != nil {
		return err
	}
	dir := filepath.Join(root, "build", "run")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	disk, password := filepath.Join(dir, "node1.qcow2"), rand.Text()[:12]
	if err := install(ctx, dir, iso, disk, password); err != nil {
		return err
	}
	return serve(ctx, dir, disk, password)
}

// portFree finds out before half an hour of work what would fail after it.
func portFree(addr string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("port 8006 is in use; stop what listens there: %w", err)
	}
	return l.Close()
}

// machine is the node's hardware; user is for QEMU's own NAT, so that guests
// of the node reach the Internet and this machine reaches the node.
func machine(ctx context.Context, dir, user string) vm.Config {
	accel, why := vm.Accelerate(ctx, filepath.Join(dir, "vmlinuz"))
	fmt.Printf("machine runs by %s: %s\n", accel, why)
	return vm.Config{Name: "node1", Memory: node.Memory, Accel: accel, NICs: []vm.NIC{{User: user}}}
}

func install(ctx context.Context, dir, iso, disk, password string) error {
	if err := os.Remove(disk); err != nil && !os.IsNotExist(err) {
		return err
	}
	if err := vm.CreateDisk(ctx, disk, node.DiskSize); err != nil {
		return err
	}
	kernel := filepath.Join(dir, "vmlinuz")
	if err := os.Remove(kernel); err != nil && !os.IsNotExist(err) {
		return err
	}
	if err := vm.ExtractFile(ctx, iso, "/boot/vmlinuz", kernel); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(dir, "install.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	start := time.Now()
	fmt.Printf("installing %s into %s: started\n", filepath.Base(iso), disk)
	ctx, cancel := context.WithTimeout(ctx, node.InstallTime)
	defer cancel()
	if err := node.Install(ctx, machine(ctx, dir, "restrict=on"), iso, disk, node.Answer("node1.example.com", password), log); err != nil {
		return fmt.Errorf("%w (whole console: %s)", err, log.Name())
	}
	fmt.Printf("installing: finished after %s\n", time.Since(start).Round(time.Second))
	return nil
}

func serve(ctx context.Context, dir, disk, password string) error {
	c := machine(ctx, dir, "hostfwd=tcp:"+apiAddress+"-:8006")
	c.Disks = []vm.Disk{{Path: disk}}
	start := time.Now()
	fmt.Println("starting the node: started")
	m, err := vm.Start(ctx, c)
	if err != nil {
		return err
	}
	defer m.Remove()
	defer m.Kill()
	api, err := client.New(client.Options{URL: "https://" + apiAddress, Insecure: true})
	if err != nil {
		return err
	}
	boot, cancel := context.WithTimeout(ctx, node.BootTime)
	defer cancel()
	if err := node.WaitLogin(boot, api, password); err != nil {
		return fmt.Errorf("%w; the node said last:\n%s", err, m.Serial(0).Tail(30))
	}
	fmt.Printf("starting the node: finished after %s\n", time.Since(start).Round(time.Second))
	fmt.Printf(welcome, password, password, filepath.Join(m.Config.Dir, "serial0.log"))
	wait(ctx, m)
	return nil
}

// wait runs until Ctrl-C, then presses the power button and gives the node a
// minute.
func wait(ctx context.Context, m *vm.Machine) {
	if m.Wait(ctx) == nil || ctx.Err() == nil {
		fmt.Println("the node has stopped")
		return
	}
	fmt.Println("stopping the node: started")
	end, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if m.PowerDown(end) != nil || m.Wait(end) != nil {
		fmt.Println("stopping the node: it did not stop in time and was cut off")
		return
	}
	fmt.Println("stopping the node: finished")
}

const welcome = `
  URL       https://localhost:8006
  user      root@pam
  password  %s

Next, in another terminal:

  1. log in              curl -sk https://localhost:8006/api2/json/access/ticket -d username=root@pam -d password=%s
  2. see the console     tail -f %s
  3. use any client      of Proxmox VE's API: point it at the URL above

Ctrl-C stops the node.
`
