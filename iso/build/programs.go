package build

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"slices"
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
	{"./cmd/joist-lxc", "/usr/libexec/joist/joist-lxc", true},
}

// goTool is the Go tool chain of the building machine.
type goTool struct {
	path, root, modCache, version string

	env []string // of every call
}

// findGo asks the go command in PATH about the sources' tool chain: an older
// Go fetches the one that go.mod names and then speaks for that.
func findGo(ctx context.Context, src string) (goTool, error) {
	g := goTool{env: goEnv(os.Environ())}
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		p := filepath.Join(dir, "go")
		if st, err := os.Stat(p); err == nil && !st.IsDir() && st.Mode()&0o111 != 0 {
			g.path = p
			break
		}
	}
	if g.path == "" {
		return g, fmt.Errorf("find Go: no go in PATH; install Go 1.21 or newer and try again")
	}
	out, err := run.OS{}.Run(ctx, run.Cmd{Path: g.path, Args: []string{"env", "GOROOT", "GOMODCACHE", "GOVERSION"}, Env: g.env, Dir: src})
	if err != nil {
		return g, fmt.Errorf("ask Go for its folders: %w", explain(err))
	}
	f := strings.Split(strings.TrimRight(string(out), "\n"), "\n")
	if len(f) != 3 || !filepath.IsAbs(f[0]) || !filepath.IsAbs(f[1]) {
		return g, fmt.Errorf("ask Go for its folders: unexpected answer %q", out)
	}
	g.root, g.modCache, g.version = f[0], f[1], f[2]
	return g, nil
}

// goEnv is the environment of the go command without what would change the
// programs: the person's flags, workspace, experiments and target.
func goEnv(environ []string) []string {
	var env []string
	for _, e := range environ {
		switch name, _, _ := strings.Cut(e, "="); name {
		case "GOFLAGS", "GOWORK", "GOEXPERIMENT", "GOFIPS140", "GOOS", "GOARCH", "GOAMD64", "CGO_ENABLED":
		default:
			env = append(env, e)
		}
	}
	return append(env, "GOFLAGS=", "GOWORK=off", "GOEXPERIMENT=", "GOFIPS140=off", "GOOS=linux", "GOARCH=amd64", "GOAMD64=v1")
}

// buildArgs leave paths and build ids out, so that the same sources give the
// same bytes anywhere.
func buildArgs(out string, pkgs ...string) []string {
	return append([]string{"build", "-tags=liblxc", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=", "-o", out}, pkgs...)
}

// compile builds the programs without cgo into dir.
func (g goTool) compile(ctx context.Context, src, dir string, pkgs []string) error {
	_, err := run.OS{}.Run(ctx, run.Cmd{Path: g.path, Args: buildArgs(dir+"/", pkgs...), Env: append(slices.Clone(g.env), "CGO_ENABLED=0"), Dir: src})
	if err != nil {
		return fmt.Errorf("compile %s: %w", strings.Join(pkgs, " "), explain(err))
	}
	return nil
}

// compileC builds a cgo program with the compiler and the libraries of the
// sandbox into the work folder. Nothing is fetched in there: sourceDigests has
// downloaded what the program is made of. cache is kept between builds.
func (g goTool) compileC(ctx context.Context, box sandbox.Sandbox, src, cache, out, pkg string) error {
	for _, dir := range []string{cache, g.modCache} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make a cache: %w", err)
		}
	}
	box = box.With(
		sandbox.Bind{Host: g.root, Inside: "/host/go", ReadOnly: true},
		sandbox.Bind{Host: g.modCache, Inside: "/host/mod", ReadOnly: true},
		sandbox.Bind{Host: src, Inside: "/host/src", ReadOnly: true},
		sandbox.Bind{Host: cache, Inside: "/host/cache"},
	)
	_, err := box.Run(ctx, run.Cmd{
		Path: "/host/go/bin/go",
		Args: buildArgs(out, pkg),
		Env: goEnv([]string{"PATH=/host/go/bin:/usr/sbin:/usr/bin", "HOME=/tmp", "GOENV=off", "GOROOT=/host/go", "GOMODCACHE=/host/mod", "GOCACHE=/host/cache",
			"GOTMPDIR=/tmp", "GOPROXY=off", "GOSUMDB=off", "GOTOOLCHAIN=local", "CC=gcc", "CGO_ENABLED=1", "LC_ALL=C.UTF-8", "TZ=UTC"}),
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
	if errors.As(err, &e) && strings.Contains(strings.TrimSpace(string(e.Stderr)), "\n") {
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
