package stage1

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	imageboot "joist/image/boot"
	"joist/system/loop"
)

// ramFrom is the memory from which on the medium is copied there. A machine of
// 4 GiB shows somewhat less: firmware and kernel have a part.
const ramFrom = 7 << 29 // 3.5 GiB

// copyWanted says whether the medium is copied to memory.
func copyWanted(word string, total int64) bool {
	return word == "1" || word == "" && total >= ramFrom
}

// copyMedium copies the medium to memory, so that it can be taken out, and
// checks it on the way. A copy that cannot be made does no harm: then the system
// runs from the medium.
func (b *boot) copyMedium(ctx context.Context) error {
	total, err := memory("MemTotal")
	if err != nil || !copyWanted(b.opt.RAM, total) {
		b.log.Printf("          the system runs from the medium, which must stay (%d MB of memory)", total/1e6)
		return err
	}
	list, size, err := b.mediumFiles()
	if err == nil {
		err = b.copyFiles(ctx, list, size)
	}
	var p *problem
	if errors.As(err, &p) {
		return err // the medium is damaged
	}
	if err != nil {
		b.log.Printf("          not copied to memory: %v; the medium must stay", err)
		return nil
	}
	b.checked = true
	b.log.Printf("          the medium is in memory (%.0f MB) and can be taken out", float64(size)/1e6)
	return nil
}

// mediumFile is one file of the medium, by its path from there.
type mediumFile struct {
	path string
	want imageboot.File // without a hash: it is not in the manifest
}

// mediumFiles lists what an installation reads.
func (b *boot) mediumFiles() (list []mediumFile, size int64, err error) {
	own := filepath.Join("joist", b.opt.Build)
	text, err := os.ReadFile(filepath.Join(medium, own, "manifest.json"))
	if err != nil {
		return nil, 0, err
	}
	m, err := imageboot.DecodeManifest(text)
	if err != nil {
		return nil, 0, err
	}
	for _, dir := range []string{"joist", own, filepath.Join(own, "boot"), "boot"} {
		entries, err := os.ReadDir(filepath.Join(medium, dir))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, 0, err
		}
		for _, e := range entries {
			st, err := e.Info()
			if err != nil || !st.Mode().IsRegular() {
				continue
			}
			f := mediumFile{path: filepath.Join(dir, e.Name())}
			if dir == own || dir == "boot" {
				f.want = m.Files[e.Name()]
			}
			list, size = append(list, f), size+st.Size()
		}
	}
	return list, size, nil
}

// copyFiles puts a copy in memory into the medium's place.
func (b *boot) copyFiles(ctx context.Context, list []mediumFile, size int64) error {
	const aside = runDir + "/old-medium"
	if err := os.MkdirAll(aside, 0o700); err != nil {
		return err
	}
	if err := unix.Mount(medium, aside, "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the medium aside: %w", err)
	}
	err := memoryMedium(size)
	if err == nil {
		c := copier{say: b.log.Printf, size: size, said: time.Now()}
		for _, f := range list {
			if err = c.copy(ctx, filepath.Join(aside, f.path), filepath.Join(medium, f.path), f.want); err != nil {
				break
			}
		}
		if err != nil {
			err = errors.Join(err, unix.Unmount(medium, unix.MNT_DETACH))
		}
	}
	if errors.Is(err, errDamaged) {
		return &problem{err, b.damaged()}
	}
	if err != nil {
		return errors.Join(err, unix.Mount(aside, medium, "", unix.MS_MOVE, ""))
	}
	if err := b.release(aside); err != nil {
		b.log.Printf("          let go of the medium: %v", err)
	}
	return nil
}

// release lets go of the medium, and of the volume that holds it as a file.
func (b *boot) release(at string) error {
	err := unix.Unmount(at, 0)
	if b.carrier != "" {
		err = errors.Join(err, loop.Detach(b.carrier), unix.Unmount(carrier, 0))
	}
	return err
}

var errDamaged = errors.New("it is damaged")

// copier copies files and says how far it is.
type copier struct {
	say     func(string, ...any)
	n, size int64
	said    time.Time
}

func (c *copier) copy(ctx context.Context, from, to string, want imageboot.File) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	r, err := os.Open(from)
	if err != nil {
		return err
	}
	defer r.Close()
	w, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600) // an answer may hold secrets
	if err != nil {
		return err
	}
	h := sha256.New()
	err = c.stream(ctx, w, r, h)
	if err = errors.Join(err, w.Close()); err != nil {
		return fmt.Errorf("copy %s: %w", filepath.Base(from), err)
	}
	if want.SHA256 != "" && hex.EncodeToString(h.Sum(nil)) != want.SHA256 {
		return fmt.Errorf("%s on the medium has another SHA-256 sum than its manifest says: %w", filepath.Base(from), errDamaged)
	}
	return nil
}

func (c *copier) stream(ctx context.Context, w io.Writer, r io.Reader, h hash.Hash) error {
	buf := make([]byte, 1<<20)
	for ctx.Err() == nil {
		n, err := r.Read(buf)
		if _, werr := w.Write(buf[:n]); werr != nil {
			return werr
		}
		h.Write(buf[:n])
		c.n += int64(n)
		if time.Since(c.said) >= 2*time.Second {
			c.said = time.Now()
			c.say("          copied %d of %d MB to memory", c.n/1e6, c.size/1e6)
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return ctx.Err()
}
