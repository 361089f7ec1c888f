package vm

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"joist/test/vm/lan"
)

// NewSwitch makes a network segment that ends with the test.
func NewSwitch(t testing.TB) *lan.Switch {
	t.Helper()
	dir := tempDir(t)
	sw, err := lan.New(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sw.Close() })
	return sw
}

// NewPort adds a port.
func NewPort(t testing.TB, sw *lan.Switch, name string) *lan.Port {
	t.Helper()
	p, err := sw.NewPort(name)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Run starts a machine that ends with the test. If the test failed, its logs
// and a picture of its screen are kept in build/test-logs/<test>/.
func Run(t testing.TB, c Config) *Machine {
	t.Helper()
	if c.Dir == "" {
		c.Dir = tempDir(t)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	m, err := Start(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("machine %q: %s, %s, %d MiB, %d CPUs", m.Config.Name, m.Config.Firmware, m.Config.Accel, m.Config.Memory, m.Config.CPUs)
	t.Cleanup(func() {
		if t.Failed() {
			keep(t, m)
		}
		if err := m.Kill(); err != nil {
			t.Error(err)
		}
	})
	return m
}

// keep copies what is needed to understand a failure.
func keep(t testing.TB, m *Machine) {
	dir, err := LogDir(t)
	if err != nil {
		t.Log(err)
		return
	}
	if m.Running() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := m.Screendump(ctx, filepath.Join(dir, m.Config.Name+"-screen.png")); err != nil {
			t.Log(err)
		}
	}
	for _, from := range m.Logs() {
		if err := copyFile(from, filepath.Join(dir, m.Config.Name+"-"+filepath.Base(from))); err != nil {
			t.Log(err)
		}
	}
	t.Logf("logs of machine %q kept in %s; its last lines:\n%s", m.Config.Name, dir, m.Serial(0).Tail(40))
}

// LogDir is the folder for what a test leaves behind,
// build/test-logs/<test>/; it is there afterwards.
func LogDir(t testing.TB) (string, error) {
	root, err := Root()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(root, "build", "test-logs", filepath.FromSlash(t.Name()))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make folder for logs: %w", err)
	}
	return dir, nil
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return fmt.Errorf("keep %q: %w", from, err)
	}
	return out.Close()
}

// tempDir is a folder with a path short enough for sockets: t.TempDir holds
// the test's name, which may be long.
func tempDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "joist-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// Root is the top folder of the checkout: the one with go.mod.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for d := dir; ; d = filepath.Dir(d) {
		if _, err := os.Stat(filepath.Join(d, "go.mod")); err == nil {
			return d, nil
		}
		if d == filepath.Dir(d) {
			return "", fmt.Errorf("find go.mod above %q: not there", dir)
		}
	}
}

// Need skips the test when a tool is missing; with JOIST_NEED_TOOLS=1, as in
// `make test`, it fails instead, so that nothing is skipped unseen.
func Need(t testing.TB, tools ...string) {
	t.Helper()
	var missing []string
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			missing = append(missing, tool)
		}
	}
	if len(missing) == 0 {
		return
	}
	text := "needs " + strings.Join(missing, ", ")
	if os.Getenv("JOIST_NEED_TOOLS") == "1" {
		t.Fatal(text)
	}
	t.Skip(text)
}
