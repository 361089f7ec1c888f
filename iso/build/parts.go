package build

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"joist/image/boot"
	"joist/internal/finding"
	"joist/rootfs/tree"
)

// keepSystems is how many built systems are kept. One is what the next build
// wraps when nothing changed; the others are for those who go back and forth.
const keepSystems = 3

// begin loads the locks and, where a system is wrapped, looks up what earlier
// builds left. Where they compiled all programs, the build id is known.
func (b *Builder) begin(ctx context.Context, kinds []Kind) error {
	if slices.Contains(kinds, TemplateOld) {
		if err := b.forGuest(TemplateOld).lockGuest(ctx); err != nil {
			return err
		}
		if len(kinds) == 1 {
			return nil
		}
	}
	if err := b.loadLock(ctx); err != nil {
		return err
	}
	system := slices.ContainsFunc(kinds, wraps)
	if b.o.Again != nil {
		return b.sameInputs(ctx, system)
	}
	if !system {
		return nil
	}
	if err := b.lookUp(ctx); err != nil {
		return err
	}
	if len(b.missing(true))+len(b.missing(false)) == 0 {
		b.id = b.buildID()
	}
	return nil
}

// parts makes the system, or takes it from the cache when all it is made of is
// as it was.
func (b *Builder) parts(ctx context.Context) (System, error) {
	if b.id != "" {
		if s, ok, err := b.keptSystem(ctx); ok || err != nil {
			return s, errors.Join(err, b.tools(ctx))
		}
	}
	root, err := b.inputs(ctx)
	if err != nil {
		return System{}, err
	}
	b.id = b.buildID()
	s, err := b.system(ctx, root)
	if err != nil {
		return s, err
	}
	if b.o.Again == nil {
		b.keepSystem(ctx, s)
	}
	return s, nil
}

// inputs makes what the system is put together from: the packages' tree and
// the programs. Go's compiler and the packages do not wait for each other.
func (b *Builder) inputs(ctx context.Context) (root *tree.Node, err error) {
	g, both := errgroup.WithContext(ctx)
	g.Go(func() error { return b.compile(both) })
	g.Go(func() error {
		if err := b.prepare(both, append(append(b.zfsSets(), setImage), b.extensionSets()...)...); err != nil {
			return err
		}
		err := b.o.Sink.Do("unpack system", func(advance func(n, of int64)) (err error) {
			root, err = b.packages(both, advance)
			return err
		})
		if err != nil {
			return err
		}
		if err := b.unpackExtensions(both); err != nil {
			return err
		}
		if err := b.indexModules(both, root); err != nil {
			return err
		}
		return b.chooseFirmware(root)
	})
	if err := g.Wait(); err != nil {
		return nil, err
	}
	if err := b.compileC(ctx); err != nil {
		return nil, err
	}
	return root, b.keepPrograms(ctx)
}

// buildID names the inputs of this build.
func (b *Builder) buildID() string {
	h := sha256.New()
	fmt.Fprintf(h, "%+v\n%q\n%s\n%d\n", b.cfg.inputs(), b.extra.sums(), b.lockText, b.built.Unix())
	for _, name := range slices.Sorted(maps.Keys(b.bins)) {
		fmt.Fprintf(h, "%s %x\n", name, sha256.Sum256(b.bins[name]))
	}
	if b.moduleKey != nil {
		fmt.Fprintf(h, "modules %x\n", sha256.Sum256(b.moduleKey.cert))
	}
	// The builder's tables are part of the joist program, which is in the image.
	return hex.EncodeToString(h.Sum(nil))[:16]
}

// systemKey names all that the system's bytes depend on: the build id, and the
// builder that runs, which may be older than the sources.
func (b *Builder) systemKey() (string, error) {
	self, err := b.self()
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256([]byte(b.id + " " + self))
	return hex.EncodeToString(sum[:])[:16], nil
}

// self names the builder that runs.
func (b *Builder) self() (string, error) {
	if b.selfSum != "" {
		return b.selfSum, nil
	}
	d, err := describe("/proc/self/exe")
	if err != nil {
		return "", fmt.Errorf("read the builder itself: %w", err)
	}
	b.selfSum = d.SHA256
	return d.SHA256, nil
}

// systemRecord lies beside the files of a kept system.
type systemRecord struct {
	Manifest boot.Manifest
	Bill     []byte
	Signed   map[string][]byte
	Said     finding.List // warnings do not go away because nothing changed
}

const recordFile = "record.json"

// inWork is a system whose files are in the work folder.
func (b *Builder) inWork() System {
	return System{Kernel: filepath.Join(b.work, boot.FileKernel), Initrd: filepath.Join(b.work, boot.FileInitrd), Squash: filepath.Join(b.work, boot.FileSystem)}
}

// files of a system by their name.
func (s System) files() map[string]string {
	return map[string]string{boot.FileKernel: s.Kernel, boot.FileInitrd: s.Initrd, boot.FileSystem: s.Squash}
}

// keptSystem brings the system of an earlier build of the same inputs into the
// work folder. Its hashes are checked: a damaged one is built anew.
func (b *Builder) keptSystem(ctx context.Context) (s System, ok bool, err error) {
	key, err := b.systemKey()
	if err != nil {
		return s, false, err
	}
	s = b.inWork()
	err = b.o.Sink.Do("reuse system", func(func(n, of int64)) error {
		ok, err = b.bringSystem(ctx, filepath.Join(b.cache, "system", key), &s)
		return err
	})
	if !ok {
		for _, f := range s.files() {
			err = errors.Join(err, remove(f))
		}
	}
	return s, ok, err
}

func (b *Builder) bringSystem(ctx context.Context, dir string, s *System) (ok bool, err error) {
	var r systemRecord
	err = b.withCache(ctx, "system", func(string) error {
		text, err := os.ReadFile(filepath.Join(dir, recordFile))
		if err != nil {
			return err
		}
		if err := json.Unmarshal(text, &r); err != nil {
			return fmt.Errorf("%w: %v", fs.ErrNotExist, err)
		}
		now := time.Now()
		for name, to := range s.files() {
			if err := linkOrCopy(filepath.Join(dir, name), to); err != nil {
				return err
			}
		}
		return os.Chtimes(dir, now, now)
	})
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	for name, at := range s.files() {
		if d, err := describe(at); err != nil || d != r.Manifest.Files[name] {
			return false, err
		}
	}
	s.Manifest, s.Bill, s.Signatures = r.Manifest, r.Bill, r.Signed
	b.say(r.Said)
	return true, nil
}

// keepSystem lets the next build take this one's files. They are linked where
// the file system allows it, so they must never be written to again. Not being
// able to keep them is no reason to fail.
func (b *Builder) keepSystem(ctx context.Context, s System) {
	err := b.withCache(ctx, "system", func(parent string) error {
		key, err := b.systemKey()
		if err != nil {
			return err
		}
		record, err := json.Marshal(systemRecord{s.Manifest, s.Bill, s.Signatures, b.said})
		if err != nil {
			return err
		}
		if err := pruneOldest(parent, keepSystems-1); err != nil {
			return err
		}
		to := filepath.Join(parent, key)
		if err := removeAll(to); err != nil {
			return err
		}
		return fillEntry(parent, to, func(tmp string) error {
			for name, from := range s.files() {
				if err := linkOrCopy(from, filepath.Join(tmp, name)); err != nil {
					return err
				}
			}
			return os.WriteFile(filepath.Join(tmp, recordFile), record, 0o644)
		})
	})
	b.cacheFailed("system", err)
}

// cacheFailed tells that something is not kept for the next build.
func (b *Builder) cacheFailed(what string, err error) {
	if err == nil {
		return
	}
	var fl finding.List
	fl.Warnf("cache-write", filepath.Join(b.cache, what), "make room there, or delete the folder", "not kept for the next build: %v", err)
	b.o.Say(fl)
}

func remove(name string) error {
	if err := os.Remove(name); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
