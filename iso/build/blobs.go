package build

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"joist/rootfs/deb"
)

// blobs is a folder of small results, each under a key that names all it was
// made from. A result carries its hash: a damaged one is as if it were not
// there. Nothing locks it, because a file appears whole or not at all.
type blobs struct{ dir string }

func (s blobs) get(key string) ([]byte, bool) {
	name := filepath.Join(s.dir, key)
	b, err := os.ReadFile(name)
	if err != nil || len(b) < sha256.Size {
		return nil, false
	}
	sum := sha256.Sum256(b[sha256.Size:])
	if !bytes.Equal(sum[:], b[:sha256.Size]) {
		return nil, false
	}
	now := time.Now()
	_ = os.Chtimes(name, now, now) // the time of last use; what cannot be marked is made again some day
	return b[sha256.Size:], true
}

// put keeps a result and drops those that no build used for a while.
func (s blobs) put(key string, b []byte) error {
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return fmt.Errorf("make the cache: %w", err)
	}
	sum := sha256.Sum256(b)
	if err := replaceFile(filepath.Join(s.dir, key), append(sum[:], b...)); err != nil {
		return fmt.Errorf("keep a result: %w", err)
	}
	return deb.PruneKept(s.dir, time.Now().Add(-keepFor))
}
