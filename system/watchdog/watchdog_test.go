package watchdog

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestHardwareIsPreferred(t *testing.T) {
	sys := t.TempDir()
	if _, err := choose(sys); !errors.Is(err, ErrNone) {
		t.Errorf("got %v", err)
	}
	for dev, id := range map[string]string{"watchdog0": "Software Watchdog\n", "watchdog1": "i6300ESB timer\n"} {
		os.MkdirAll(filepath.Join(sys, dev), 0o755)
		os.WriteFile(filepath.Join(sys, dev, "identity"), []byte(id), 0o644)
	}
	if got, err := choose(sys); got != "/dev/watchdog1" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestNilTimer(t *testing.T) {
	t.Setenv(Env, "")
	d := Inherit()
	d.SetTimeout(1)
	d.Feed()
	d.Disarm()
	if env, err := d.Leave(); env != "" || err != nil {
		t.Errorf("got %q, %v", env, err)
	}
}
