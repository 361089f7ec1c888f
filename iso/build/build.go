package build

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"joist/installer/answer"
	"joist/internal/finding"
	"joist/internal/progress"
	"joist/internal/run"
	"joist/rootfs/deb"
	"joist/rootfs/lock"
	"joist/rootfs/policy"
	"joist/rootfs/sandbox"
	"joist/rootfs/unpack"
)

// Options are what a person may say about one build.
type Options struct {
	Source     string            // the checkout: go.mod, joist.toml, joist.lock
	Config     string            // joist.toml, "" for the one in Source
	Out        string            // where artefacts go
	Mirror     string            // base URL instead of apt's sources
	Proxy      string            // URL of a proxy instead of apt's and the environment's
	Answer     string            // answer file to put inside
	Program    string            // first-boot program to put inside
	From       answer.Source     // server to name inside; its URL is empty for none
	SectorSize int               // of disk images, 0 for what joist.toml says
	Pool       string            // archive of SavePool to take all from, "" for the network
	SavePool   string            // archive to put all into that was fetched, "" for none
	Key        string            // file of the Ed25519 key that signs SHA256SUMS, "" for none
	ModuleKey  string            // file of the RSA key, with its certificate, that signs modules, "" for none
	Again      *Inputs           // make the same again: this configuration and time, and nothing that an earlier build made
	Signed     map[string]string // with Again: signatures by artefact, which then need no key
	Locked     bool              // a lock that does not fit is an error
	Sink       progress.Sink
	Say        func(finding.List) // notes and warnings as they come
	Log        *slog.Logger
}

// Builder carries one build through its steps.
type Builder struct {
	o        Options
	cfg      Config
	extra    Contents
	gotool   goTool
	client   *deb.Client
	lock     lock.Lock
	lockText []byte // of the lock file
	files    map[string]string
	cache    string
	out      outdir
	work     string // out.work; removed when the build ends
	box      sandbox.Sandbox
	built    time.Time
	id       string
	bins     map[string][]byte // program → content, by base name
	keys     map[string]string // program → what it is made of
	modules  map[string]bool   // path@version of Go modules in programs
	pool     *deb.TarPool      // nil for the network
	compiled []string          // programs of bins that this build compiled
	key      ed25519.PrivateKey
	said     finding.List // about the system, for who takes it from the cache

	private    map[string][]byte // to be put on the medium beside the build
	signatures map[string]string // made with the key, by artefact
	selfSum    string            // hash of the builder that runs
	moduleKey  *moduleSigner     // nil for none

	ext   []extension  // of the image
	guest guestRelease // zero: the one of the image
	older *Builder     // of a template with a lock of its own, nil while none was asked for
}

// Sets of the lock.
const (
	setImage    = "image"
	setTools    = "tools"
	setGuest    = "template"
	setZFS      = "zfs"      // compiles the module; empty without ZFS
	setFirmware = "firmware" // all of it, so that the lock does not depend on how much an image takes
)

// New checks the configuration and prepares a build. Nothing is fetched yet.
// Close must be called.
func New(ctx context.Context, o Options) (*Builder, error) {
	b := &Builder{o: o, bins: map[string][]byte{}}
	explicit := o.Config != ""
	if !explicit {
		b.o.Config = filepath.Join(o.Source, "joist.toml")
	}
	cfg, contents, fl := LoadConfig(b.o.Config)
	if _, err := os.Stat(b.o.Config); explicit && errors.Is(err, os.ErrNotExist) {
		fl.Stopf("config-unreadable", b.o.Config, "correct the path behind --config", "the file does not exist")
	}
	if o.Again != nil {
		where := cfg.Where
		cfg, fl = o.Again.config(), nil
		contents = cfg.check(&fl, source{name: filepath.Join(filepath.Dir(b.o.Config), "configuration of the artefact")})
		cfg.Where = where
	}
	b.o.Say(warnings(fl))
	if err := fl.Err(); err != nil {
		return nil, err
	}
	b.cfg, b.extra = cfg, contents
	b.where()
	if n := b.sectorSize(); n != 512 && n != 4096 && o.Again == nil {
		return nil, fmt.Errorf("--sector-size %d is not possible: use 512, or 4096 for disks that have no smaller sectors (4Kn)", n)
	}
	var err error
	if b.gotool, err = findGo(ctx, o.Source); err != nil {
		return nil, err
	}
	if b.cache, err = cacheDir(); err != nil {
		return nil, err
	}
	dc := deb.Config{Mirror: b.o.Mirror, Proxy: b.o.Proxy, Cache: filepath.Join(b.cache, "pool"), Log: o.Log}
	if b.o.Proxy != "" { // for Go's modules
		b.gotool.env = append(b.gotool.env, "HTTP_PROXY="+b.o.Proxy, "HTTPS_PROXY="+b.o.Proxy)
	}
	if b.o.Pool != "" {
		if b.pool, err = deb.OpenPool(b.o.Pool); err != nil {
			return nil, err
		}
		dc.Pool = b.pool
	}
	if b.client, err = deb.New(dc); err != nil {
		return nil, err
	}
	if b.built, err = b.buildTime(ctx); err != nil {
		return nil, err
	}
	b.o.Say(b.extra.expired(b.built))
	if o.Key != "" {
		if b.key, err = loadSignKey(o.Key); err != nil {
			return nil, err
		}
	}
	if b.moduleKey, err = b.moduleSigner(); err != nil {
		return nil, err
	}
	b.out, err = openOut(ctx, o.Out, func() {
		b.o.Say(finding.List{{Level: finding.Warn, Code: "build-waits", Path: o.Out, Text: "another build writes to this folder; waiting for it to end"}})
	})
	if err != nil {
		return nil, explainFull(err, o.Out, b.cache)
	}
	b.work = b.out.work
	if b.pool != nil {
		if err := b.usePool(); err != nil {
			return nil, errors.Join(err, b.Close())
		}
	}
	return b, nil
}

// moduleSigner is who signs modules: a key, or the signatures that were made
// with one before.
func (b *Builder) moduleSigner() (*moduleSigner, error) {
	switch again := b.o.Again; {
	case again != nil && again.ModuleCert != nil:
		return &moduleSigner{cert: again.ModuleCert, made: again.ModuleSignatures}, nil
	case again != nil || b.o.ModuleKey == "":
		return nil, nil
	case !b.cfg.Image.ZFS:
		b.o.Say(finding.List{{Level: finding.Warn, Code: "module-key-unused", Path: b.o.ModuleKey, Text: "there is no module to sign: zfs = false in joist.toml", Hint: "leave --module-key out"}})
		return nil, nil
	}
	return loadModuleKey(b.o.ModuleKey)
}

// warnings are the findings that do not stop: those that do are the error.
func warnings(fl finding.List) finding.List {
	return slices.DeleteFunc(slices.Clone(fl), func(f finding.Finding) bool { return f.Level == finding.Stop })
}

// where takes from joist.toml what no flag said. Paths there begin at its folder.
func (b *Builder) where() {
	w, dir := b.cfg.Where, filepath.Dir(b.o.Config)
	for _, x := range []struct {
		flag *string
		key  string
		path bool
	}{{&b.o.Mirror, w.Mirror, false}, {&b.o.Proxy, w.Proxy, false}, {&b.o.Pool, w.Pool, true}, {&b.o.SavePool, w.SavePool, true}, {&b.o.Answer, w.Answer, true}, {&b.o.Program, w.Program, true}} {
		if *x.flag != "" || x.key == "" || (x.flag == &b.o.Answer || x.flag == &b.o.Program) && b.o.Again != nil { // what is made again has its own
			continue
		}
		if *x.flag = x.key; x.path && !filepath.IsAbs(x.key) {
			*x.flag = filepath.Join(dir, x.key)
		}
	}
}

// Close removes what the build does not leave behind.
func (b *Builder) Close() error {
	var err error
	if b.pool != nil {
		err = b.pool.Close()
	}
	return errors.Join(err, b.out.close())
}

// buildTime is the time in every file of the image: SOURCE_DATE_EPOCH
// (reproducible-builds.org/specs/source-date-epoch), else that of the last
// commit, else now.
func (b *Builder) buildTime(ctx context.Context) (time.Time, error) {
	if b.o.Again != nil {
		return time.Unix(b.o.Again.Epoch, 0).UTC(), nil
	}
	if s := os.Getenv("SOURCE_DATE_EPOCH"); s != "" {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil || n < 0 || n >= 1<<32 {
			return time.Time{}, fmt.Errorf("read SOURCE_DATE_EPOCH: %q is not a number of seconds since 1970", s)
		}
		return time.Unix(n, 0).UTC(), nil
	}
	// The checkout may belong to another user, whom git does not trust.
	out, err := run.OS{}.Run(ctx, run.Cmd{Path: "git", Args: []string{"-c", "safe.directory=*", "log", "-1", "--format=%ct"}, Dir: b.o.Source, Env: os.Environ()})
	if err == nil {
		if n, err := strconv.ParseInt(strings.TrimSpace(string(out)), 10, 64); err == nil {
			return time.Unix(n, 0).UTC(), nil
		}
	}
	return time.Now().UTC().Truncate(time.Second), ctx.Err()
}

// prepare does what every artefact needs: the packages of its sets and the
// tools.
func (b *Builder) prepare(ctx context.Context, sets ...string) error {
	empty, err := os.MkdirTemp(b.work, "check-*")
	if err != nil {
		return err
	}
	if err := sandbox.Check(ctx, empty); err != nil {
		return err
	}
	if err := b.fetch(ctx, append(sets, setTools)...); err != nil {
		return err
	}
	// A kept copy that no build used for a while belongs to an older lock.
	if err := deb.PruneKept(b.keptDir(), time.Now().Add(-keepFor)); err != nil {
		return err
	}
	return b.tools(ctx)
}

// say tells findings about the system.
func (b *Builder) say(fl finding.List) {
	b.said = append(b.said, fl...)
	b.o.Say(fl)
}

// lockName is the file beside go.mod that names the packages.
func (b *Builder) lockName() string {
	if b.guest.lock != "" {
		return b.guest.lock
	}
	return poolLock
}

func (b *Builder) lockFile() string { return filepath.Join(b.o.Source, b.lockName()) }

// digest names what the lock was resolved from.
func (b *Builder) digest() string {
	if b.guest.suites == nil {
		return b.cfg.resolveDigest()
	}
	return lock.Digest(fmt.Appendf(nil, "%q %q %q %q", b.guest.suites, b.guest.wants(), policy.TemplateTools(), policy.TemplateToolsExcluded()))
}

// loadLock reads the lock, or resolves it where it is missing or was made
// for another configuration.
func (b *Builder) loadLock(ctx context.Context) error {
	text, err := os.ReadFile(b.lockFile())
	switch {
	case err == nil:
		l, err := lock.Decode(b.lockName(), text)
		if err != nil {
			return fmt.Errorf("read %s: %w", b.lockName(), err)
		}
		if l.Config == b.digest() {
			b.lock, b.lockText = l, text
			return nil
		}
		if b.o.Locked {
			return fmt.Errorf("%s was resolved from another configuration, and --locked forbids a new one: run joist build without --locked", b.lockName())
		}
	case !errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("read %s: %w", b.lockName(), err)
	case b.o.Locked:
		return fmt.Errorf("there is no %s, and --locked forbids a new one: run joist build without --locked", b.lockName())
	}
	return b.resolve(ctx)
}

// resolve makes a new lock of one state of the archive and writes it.
func (b *Builder) resolve(ctx context.Context) error {
	return b.o.Sink.Do("resolve packages", func(func(n, of int64)) error {
		ix, fl, err := b.client.Index(ctx, b.cfg.Suites)
		b.o.Say(fl)
		if err != nil {
			return err
		}
		sets := map[string]lock.Lock{}
		add := func(name string, wants []string, out map[string]string) error {
			l, fl, err := deb.Resolve(ctx, b.client, b.cfg.Suites, wants, out)
			if err != nil {
				return err
			}
			if name == setZFS {
				fl = zfsUnresolved(fl)
			}
			if strings.HasPrefix(name, extensionSet("")) { // of the whole image it needs little
				fl = slices.DeleteFunc(fl, func(f finding.Finding) bool { return f.Code == "exclude-unused" })
			}
			b.o.Say(fl)
			l.Config = b.digest()
			sets[name] = l
			return fl.Err()
		}
		if b.guest.suites != nil {
			err = b.guest.resolveSets(ix, add)
		} else {
			err = b.resolveSets(ix, sets, add)
		}
		if err != nil {
			return err
		}
		l, err := lock.Join(sets)
		if err != nil {
			return err
		}
		text, err := lock.Encode(l)
		if err != nil {
			return err
		}
		if err := replaceFile(b.lockFile(), text); err != nil {
			return fmt.Errorf("write %s: %w", b.lockName(), err)
		}
		b.lock, b.lockText = l, text
		return nil
	})
}

// resolveSets resolves what joist.lock holds. add puts each into sets.
func (b *Builder) resolveSets(ix *deb.Index, sets map[string]lock.Lock, add func(set string, wants []string, out map[string]string) error) error {
	wants, excluded := b.cfg.wants()
	if err := add(setImage, wants, excluded); err != nil {
		return err
	}
	if err := add(setTools, policy.Tools(), policy.ToolsExcluded()); err != nil {
		return err
	}
	if err := add(setGuest, append(policy.Template(), essential(ix)...), nil); err != nil {
		return err
	}
	if err := add(setFirmware, policy.Firmware(policy.FirmwareAll), nil); err != nil {
		return err
	}
	var image []string
	for _, p := range sets[setImage].Packages {
		image = append(image, p.Name)
	}
	for _, x := range b.cfg.lockedExtensions() {
		if err := add(extensionSet(x.Name), x.Packages, x.ExtensionOut(image)); err != nil {
			return err
		}
	}
	if !b.cfg.Image.ZFS {
		return nil
	}
	release, err := lockedKernel(sets[setImage].Packages)
	if err != nil {
		return err
	}
	return add(setZFS, policy.ZFSModule(release), policy.ZFSModuleExcluded(release))
}

// fetch brings every locked package into the cache. When one has left the
// mirror, all are resolved anew, as one set, and the person is told.
func (b *Builder) fetch(ctx context.Context, sets ...string) error {
	get := func() (err error) {
		var ps []lock.Package
		for _, p := range b.lock.Packages {
			if slices.ContainsFunc(sets, func(s string) bool { return b.belongs(p, s) }) {
				ps = append(ps, p)
			}
		}
		files, err := b.client.Fetch(ctx, ps, b.o.Sink)
		if err != nil {
			return err
		}
		if b.files == nil {
			b.files = map[string]string{}
		}
		maps.Copy(b.files, files)
		now := time.Now()
		for _, f := range files {
			_ = os.Chtimes(f, now, now) // the time of last use; what cannot be marked is fetched again some day
		}
		return nil
	}
	err := get()
	if !errors.Is(err, deb.ErrGone) {
		return err
	}
	if b.o.Locked {
		return fmt.Errorf("%w, and --locked forbids resolving anew", err)
	}
	b.o.Say(finding.List{{Level: finding.Warn, Code: "lock-renewed", Path: b.lockName(), Text: fmt.Sprintf("%v; all packages are resolved anew", err), Hint: "look at the change of " + b.lockName() + " and commit it"}})
	if err := b.resolve(ctx); err != nil {
		return err
	}
	return get()
}

// keepFor is how long the caches hold what no build uses.
const keepFor = 7 * 24 * time.Hour

// keptDir holds packages in a form that unpacks quickly, by their hash.
func (b *Builder) keptDir() string { return filepath.Join(b.cache, "unpacked") }

// belongs reports whether a locked package is one of a set. The image has the
// firmware that the configuration chooses.
func (b *Builder) belongs(p lock.Package, set string) bool {
	return slices.Contains(p.Sets, set) ||
		set == setImage && slices.Contains(p.Sets, setFirmware) && slices.Contains(policy.Firmware(b.cfg.Image.Firmware), p.Name)
}

// packagesOf are the locked packages of a set.
func (b *Builder) packagesOf(set string) []lock.Package {
	return slices.DeleteFunc(slices.Clone(b.lock.Packages), func(p lock.Package) bool { return !b.belongs(p, set) })
}

// open opens the packages of one set.
func (b *Builder) open(set string) ([]unpack.Package, error) {
	list := b.packagesOf(set)
	out := make([]unpack.Package, len(list))
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, p := range list {
		g.Go(func() (err error) {
			if out[i], err = deb.Open(b.files[p.Name]); err != nil {
				return fmt.Errorf("open package %s: %w", p.Name, err)
			}
			out[i].Keep(filepath.Join(b.keptDir(), p.SHA256))
			return nil
		})
	}
	return out, g.Wait()
}
