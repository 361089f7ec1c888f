package member

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.etcd.io/bbolt"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	"joist/cluster/store"
)

// The store's file, as etcd's package mvcc writes it: in the bucket "key" each
// change under its revision, eight bytes main and eight bytes sub around an
// underscore, and a "t" behind it where it is a deletion.
const (
	storeBucket = "key"
	revisionLen = 17
)

// Salvage reads all keys below prefix from the folder of a member that is not
// running and cannot be started any more, because it was removed from its
// cluster. What it had not yet written to its file is missing: less than a
// second's changes.
func Salvage(dir, prefix string) ([]store.Item, error) {
	name := filepath.Join(dir, "member", "snap", "db")
	db, err := bbolt.Open(name, 0o600, &bbolt.Options{ReadOnly: true, Timeout: 5 * time.Second})
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read store's file %s: %w", name, err)
	}
	defer db.Close()
	last := map[string]store.Item{}
	err = db.View(func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte(storeBucket))
		if b == nil {
			return nil
		}
		return b.ForEach(func(rev, value []byte) error { // in order of revisions
			var kv mvccpb.KeyValue
			if err := proto.Unmarshal(value, &kv); err != nil {
				return err
			}
			key := string(kv.Key)
			if len(rev) > revisionLen {
				delete(last, key)
			} else if strings.HasPrefix(key, prefix) {
				last[key] = store.Item{Key: key, Value: bytes.Clone(kv.Value), Rev: kv.ModRevision}
			}
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("read store's file %s: %w", name, err)
	}
	out := make([]store.Item, 0, len(last))
	for _, it := range last {
		out = append(out, it)
	}
	slices.SortFunc(out, func(a, b store.Item) int { return strings.Compare(a.Key, b.Key) })
	return out, nil
}
