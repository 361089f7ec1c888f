package build

import (
	"context"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strings"

	"joist/internal/run"
	"joist/rootfs/sandbox"
)

// Go programs of the image, where they go, and whether they need C.
var programs = []struct {
	pkg, dest string
	cgo       bool
}{
	{"./cmd/joist-init", "/usr/sbin/joist-init", false},
	{"./cmd/joist-install", "/usr/sbin/joist-install", false},
	{"./cmd/joistd", "/usr/sbin/joistd", false},
	{"./cmd/joist", "/usr/bin/joist", false},
	// {"./cmd/joist-lxc", "/usr/libexec/joist/joist-lxc", true},
}

// goTool is the Go tool chain of the building machine.
type goTool struct {
	path, root, modCache, cache, proxy string
}

func findGo(ctx context.Context) (goTool, error) {
	var g goTool
	for dir := range strings.SplitSeq(os.Getenv("PATH"), ":") {
		p := filepath.Join(dir, "go")
		if st, err := os.Stat(p); err == nil && !st.IsDir() {
			g.path = p
			break
		}
	}
	if g.path == "" {
		return g, fmt.Errorf("find Go: no go in PATH; install Go 1.21 or newer and try again")
	}
	out, err := run.OS{}.Run(ctx, run.Cmd{Path: g.path, Args: []string{"env", "GOROOT", "GOMODCACHE", "GOCACHE", "GOPROXY"}, Env: os.Environ()})
	if err != nil {
		return g, fmt.Errorf("ask Go for its folders: %w", err)
	}
	f := strings.Split(strings.TrimRight(string(out), "\n"), "\n")
	if len(f) != 4 {
		return g, fmt.Errorf("ask Go for its folders: unexpected answer %q", out)
	}
	g.root, g.modCache, g.cache, g.proxy = f[0], f[1], f[2], f[3]
	return g, nil
}

// compile builds the programs without cgo into dir. Paths and build ids are
// left out, so that the same sources give the same bytes anywhere.
func (g goTool) compile(ctx context.Context, src, dir string, pkgs []string) error {
	args := append([]string{"build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=", "-o", dir + "/"}, pkgs...)
	env := append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOAMD64=v1")
	_, err := run.OS{}.Run(ctx, run.Cmd{Path: g.path, Args: args, Env: env, Dir: src})
	if err != nil {
		return fmt.Errorf("compile %s: %w", strings.Join(pkgs, " "), explain(err))
	}
	return nil
}

// compileC builds a cgo program with the compiler and the libraries of the
// sandbox. Modules must be downloaded already: nothing is fetched in there.
func (g goTool) compileC(ctx context.Context, box sandbox.Sandbox, src, out, pkg string) error {
	if _, err := (run.OS{}).Run(ctx, run.Cmd{Path: g.path, Args: []string{"mod", "download", "github.com/lxc/go-lxc", "golang.org/x/sys"}, Env: os.Environ(), Dir: src}); err != nil {
		return fmt.Errorf("download Go modules: %w", explain(err))
	}
	cache := filepath.Join(filepath.Dir(out), "go-cache")
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return err
	}
	box = box.With(
		sandbox.Bind{Host: g.root, Inside: "/host/go", ReadOnly: true},
		sandbox.Bind{Host: g.modCache, Inside: "/host/mod", ReadOnly: true},
		sandbox.Bind{Host: src, Inside: "/host/src", ReadOnly: true},
		sandbox.Bind{Host: cache, Inside: "/host/cache"},
		sandbox.Bind{Host: filepath.Dir(out), Inside: "/host/out"},
	)
	_, err := box.Run(ctx, run.Cmd{
		Path: "/host/go/bin/go",
		Args: []string{"build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=", "-o", "/host/out/" + filepath.Base(out), pkg},
		Env: []string{"PATH=/host/go/bin:/usr/sbin:/usr/bin", "HOME=/tmp", "GOROOT=/host/go", "GOMODCACHE=/host/mod", "GOCACHE=/host/cache", "GOTMPDIR=/tmp",
			"GOFLAGS=-mod=mod", "GOPROXY=off", "GOSUMDB=off", "GOTOOLCHAIN=local", "CGO_ENABLED=1", "CC=gcc", "LC_ALL=C.UTF-8"},
		Dir: "/host/src",
	})
	if err != nil {
		return fmt.Errorf("compile %s in the sandbox: %w", pkg, explain(err))
	}
	return nil
}

// explain puts a compiler's whole stderr into the error: its last line alone
// says nothing.
func explain(err error) error {
	var e *run.Error
	if ok := asRun(err, &e); ok && len(e.Stderr) > 0 {
		return fmt.Errorf("%w\n%s", err, strings.TrimSpace(string(e.Stderr)))
	}
	return err
}

// cacheDir is where downloads and sandboxes are kept between builds.
func cacheDir() (string, error) {
	if d, err := os.UserCacheDir(); err == nil {
		return filepath.Join(d, "joist"), nil
	}
	u, err := user.Current()
	if err != nil || u.HomeDir == "" {
		return "", fmt.Errorf("find a folder for the cache: set HOME or XDG_CACHE_HOME")
	}
	return filepath.Join(u.HomeDir, ".cache", "joist"), nil
}
