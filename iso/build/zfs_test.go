package build

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"joist/internal/finding"
	"joist/internal/run"
	"joist/rootfs/lock"
)

func TestLockedKernel(t *testing.T) {
	ps := []lock.Package{{Name: "linux-image-amd64"}, {Name: "linux-image-6.12.9+deb13-cloud-amd64"}, {Name: "lvm2"}}
	if r, err := lockedKernel(ps); err != nil || r != "6.12.9+deb13-cloud-amd64" {
		t.Errorf("%q, %v", r, err)
	}
	if r, err := lockedKernel(ps[:1]); err == nil {
		t.Errorf("a kernel out of nothing: %q", r)
	}
}

func TestCommonRelease(t *testing.T) {
	for release, want := range map[string]string{"6.12.9+deb13-amd64": "6.12.9+deb13-common", "6.12.9+deb13-cloud-amd64": "6.12.9+deb13-common"} {
		if got := commonRelease(release); got != want {
			t.Errorf("%s: %s", release, got)
		}
	}
}

func TestZFSSteps(t *testing.T) {
	root := t.TempDir()
	const release = "6.12.9+deb13-amd64"
	if _, err := zfsSteps(root, release, 2); err == nil {
		t.Error("steps without a source")
	}
	dirs := []string{"zfs-2.3.9", "linux-headers-6.12.9+deb13-common", "linux-headers-" + release}
	for i, dir := range dirs {
		if err := os.MkdirAll(filepath.Join(root, "usr/src", dir), 0o755); err != nil {
			t.Fatal(err)
		}
		steps, err := zfsSteps(root, release, 2)
		if i < len(dirs)-1 {
			if err == nil || i > 0 && !strings.Contains(err.Error(), "zfs-not-compiled") {
				t.Errorf("with %s: %v", dir, err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range steps {
			env := strings.Join(c.Env, " ")
			for _, fixed := range []string{"TZ=UTC", "LC_ALL=C.UTF-8", "SOURCE_DATE_EPOCH=0", "KBUILD_BUILD_HOST=joist", "KBUILD_BUILD_USER=joist"} {
				if !strings.Contains(env, fixed) {
					t.Errorf("%s runs without %s", c, fixed)
				}
			}
		}
	}
}

// Whoever cannot have the module is told what to do.
func TestZFSFindings(t *testing.T) {
	lines := strings.Repeat("line\n", 100) + "checking something... no\nconfigure: error: *** none\n"
	err := zfsFailed("6.99", &run.Error{Stderr: []byte(lines), Err: errors.New("exit status 1")})
	for _, want := range []string{"zfs-not-compiled", "6.99", "configure: error: *** none", "zfs = false"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v\nlacks %q", err, want)
		}
	}
	if n := strings.Count(err.Error(), "\n"); n > 30 {
		t.Errorf("a finding of %d lines", n)
	}
	var fl finding.List
	fl.Stopf("package-unknown", "linux-headers-6.99", "check the name", "wanted package is in no suite")
	fl.Notef("exclude-unused", "x", "nothing")
	fl = zfsUnresolved(fl)
	if fl[0].Hint != "check the name; or "+noZFS || fl[1].Hint != "" {
		t.Errorf("%v", fl)
	}
}

// Without OpenZFS neither lock nor image know of it.
func TestNoZFS(t *testing.T) {
	with, without := Defaults(), Defaults()
	without.Image.ZFS = false
	has := func(c Config) bool {
		wants, _ := c.wants()
		return strings.Contains(strings.Join(wants, " "), "zfsutils-linux")
	}
	if !has(with) || has(without) || with.resolveDigest() == without.resolveDigest() {
		t.Error("the switch changes nothing")
	}
	b := Builder{cfg: without, cache: t.TempDir()}
	if sets := b.zfsSets(); sets != nil {
		t.Errorf("fetches %v", sets)
	}
	if err := b.addZFS(t.Context(), nil, "6.12"); err != nil {
		t.Error(err)
	}
	b.cfg = with
	if sets := b.zfsSets(); len(sets) != 1 {
		t.Errorf("fetches %v", sets)
	}
	if err := os.MkdirAll(filepath.Join(b.cache, "zfs", b.zfsKey()), 0o755); err != nil {
		t.Fatal(err)
	}
	if sets := b.zfsSets(); sets != nil {
		t.Errorf("fetches %v although the module is kept", sets)
	}
	b.o.Again = &Inputs{}
	if sets := b.zfsSets(); len(sets) != 1 {
		t.Errorf("fetches %v to compile again", sets)
	}
}
