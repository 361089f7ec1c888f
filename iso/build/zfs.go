package build

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"joist/internal/finding"
	"joist/internal/run"
	"joist/rootfs/lock"
	"joist/rootfs/sandbox"
	"joist/rootfs/tree"
)

// zfsModules are the files that OpenZFS's source is compiled into, below it.
var zfsModules = []string{"module/spl.ko", "module/zfs.ko"}

// zfsFolder is where they go below the kernel's module tree.
const zfsFolder = "/extra"

// zfsRecipe changes with how the module is compiled, so that none that was
// compiled otherwise is taken from the cache.
const zfsRecipe = "1"

const noZFS = "set zfs = false under [image] in joist.toml to build without OpenZFS"

// lockedKernel is the release of the kernel among locked packages.
func lockedKernel(ps []lock.Package) (string, error) {
	for _, p := range ps {
		// linux-image-amd64 names the newest one and holds none
		if release, ok := strings.CutPrefix(p.Name, "linux-image-"); ok && release[0] >= '0' && release[0] <= '9' {
			return release, nil
		}
	}
	return "", errors.New("find the kernel: no package linux-image-VERSION is wanted")
}

// zfsKey names all that the module's bytes depend on: source, headers and
// tools are packages.
func (b *Builder) zfsKey() string { return b.setKey(setZFS) + "-" + zfsRecipe }

// zfsSets are the sets to fetch beside others: none where the module is kept.
func (b *Builder) zfsSets() []string {
	if !b.cfg.Image.ZFS {
		return nil
	}
	if _, err := os.Stat(filepath.Join(b.cache, "zfs", b.zfsKey())); err == nil && b.o.Again == nil {
		return nil
	}
	return []string{setZFS}
}

// addZFS puts OpenZFS's modules among those of the kernel.
func (b *Builder) addZFS(ctx context.Context, mods *tree.Node, release string) error {
	if !b.cfg.Image.ZFS {
		return nil
	}
	dir, err := b.zfs(ctx, release)
	if err != nil {
		return err
	}
	for _, m := range zfsModules {
		name := filepath.Base(m)
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		if b.moduleKey != nil {
			if text, err = b.moduleKey.sign(name, text); err != nil {
				return err
			}
		}
		if err := mods.AddFile(zfsFolder+"/"+name, 0o644, tree.Bytes(text)); err != nil {
			return err
		}
	}
	return nil
}

// zfs returns the folder with the compiled modules.
func (b *Builder) zfs(ctx context.Context, release string) (string, error) {
	fill := func(tmp string) error {
		return b.o.Sink.Do("compile OpenZFS (minutes, once for each kernel)", func(func(n, of int64)) error { return b.compileZFS(ctx, release, tmp) })
	}
	if b.o.Again != nil { // to verify means to compile again
		dir := filepath.Join(b.work, "zfs-modules")
		if err := os.Mkdir(dir, 0o755); err != nil {
			return "", err
		}
		return dir, fill(dir)
	}
	return b.cached(ctx, "zfs", b.zfsKey(), fill)
}

// compileZFS writes the modules for a kernel to the empty folder to.
func (b *Builder) compileZFS(ctx context.Context, release, to string) error {
	root, err := b.cached(ctx, "sandbox", b.zfsKey(), func(tmp string) error {
		if err := b.unpackTools(ctx, setZFS, tmp); err != nil {
			return err
		}
		return errors.Join(
			os.Symlink("gawk", filepath.Join(tmp, "usr/bin/awk")), // an alternative, which unpacking does not make
			// With it Kbuild makes type information for tracing, of debug
			// information that would double the time; without, it does not.
			remove(filepath.Join(tmp, "usr/src/linux-headers-"+release, "vmlinux")))
	})
	if err != nil {
		return err
	}
	work := filepath.Join(b.work, "zfs")
	if err := os.Mkdir(work, 0o755); err != nil {
		return err
	}
	defer removeAll(work)
	box := sandbox.Sandbox{Root: root, Binds: []sandbox.Bind{{Host: work, Inside: zfsWork}}}
	steps, err := zfsSteps(root, release, runtime.GOMAXPROCS(0))
	if err != nil {
		return err
	}
	for _, c := range steps {
		if _, err := box.Run(ctx, c); err != nil {
			if ctx.Err() != nil || errors.Is(err, sandbox.ErrNoNamespaces) {
				return err
			}
			return zfsFailed(release, err)
		}
	}
	for _, m := range zfsModules {
		if err := linkOrCopy(filepath.Join(work, "src", m), filepath.Join(to, filepath.Base(m))); err != nil {
			return fmt.Errorf("take OpenZFS's modules: %w", err)
		}
	}
	return nil
}

// zfsWork is where the source lies in the sandbox: the same for everyone,
// because the compiler writes its path into the modules.
const zfsWork = "/host/zfs"

// zfsSteps are the commands that make the modules in zfsWork/src, as
// OpenZFS's dkms.conf has them. The headers' folder "source" is that of all
// flavours, which holds what configure looks for.
func zfsSteps(root, release string, jobs int) ([]run.Cmd, error) {
	found, err := filepath.Glob(filepath.Join(root, "usr/src/zfs-[0-9]*"))
	if err != nil || len(found) != 1 {
		return nil, fmt.Errorf("find OpenZFS's source: zfs-dkms must hold one in /usr/src (%v)", err)
	}
	common := "/usr/src/linux-headers-" + commonRelease(release)
	headers := "/usr/src/linux-headers-" + release
	for _, dir := range []string{common, headers} {
		if st, err := os.Stat(filepath.Join(root, dir)); err != nil || !st.IsDir() {
			return nil, zfsFailed(release, fmt.Errorf("the locked packages hold no %s", dir))
		}
	}
	src := zfsWork + "/src"
	steps := []run.Cmd{
		{Path: "/usr/bin/cp", Args: []string{"-r", "/usr/src/" + filepath.Base(found[0]), src}},
		// one time for all, or make wants to make configure again
		{Path: "/usr/bin/find", Args: []string{src, "-exec", "/usr/bin/touch", "-h", "-d", "@0", "{}", "+"}},
		{Path: "/usr/bin/sh", Dir: src, Args: []string{"./configure", "--disable-dependency-tracking", "--prefix=/usr", "--with-config=kernel",
			"--with-linux=" + common, "--with-linux-obj=" + headers}},
		{Path: "/usr/bin/make", Dir: src, Args: []string{"-j", fmt.Sprint(jobs)}},
		{Path: "/usr/bin/strip", Dir: src, Args: append([]string{"--strip-debug"}, zfsModules...)},
	}
	for i := range steps {
		steps[i].Env = []string{"PATH=/usr/sbin:/usr/bin", "HOME=/tmp", "LC_ALL=C.UTF-8", "TZ=UTC", "SOURCE_DATE_EPOCH=0",
			"KBUILD_BUILD_TIMESTAMP=@0", "KBUILD_BUILD_USER=joist", "KBUILD_BUILD_HOST=joist",
			// Debug information would be stripped anyway.
			"KCFLAGS=-g0 -ffile-prefix-map=" + src + "/="}
	}
	return steps, nil
}

// commonRelease is the release in the name of the headers that all flavours
// of a kernel share: "6.12.117+deb13-common" for "6.12.117+deb13-amd64".
func commonRelease(release string) string {
	version, _, _ := strings.Cut(release, "-")
	return version + "-common"
}

// zfsFailed is the finding that the module could not be compiled.
func zfsFailed(release string, err error) error {
	text := err.Error()
	var e *run.Error
	if errors.As(err, &e) {
		lines := strings.Split(strings.TrimSpace(string(e.Stderr)), "\n")
		text += "\n" + strings.Join(lines[max(0, len(lines)-20):], "\n")
	}
	var fl finding.List
	fl.Stopf("zfs-not-compiled", "zfs-dkms", noZFS+", or take an older kernel until Debian's OpenZFS follows (git log joist.lock)",
		"OpenZFS cannot be compiled for the kernel %s: %s", release, text)
	return fl.Err()
}

// zfsUnresolved adds the way out to the findings that stop the resolution of
// the module's packages.
func zfsUnresolved(fl finding.List) finding.List {
	for i := range fl {
		if fl[i].Level == finding.Stop {
			fl[i].Hint = strings.Join(slices.DeleteFunc([]string{fl[i].Hint, noZFS}, func(s string) bool { return s == "" }), "; or ")
		}
	}
	return fl
}
